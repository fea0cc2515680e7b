"""A process that takes part in a sweep: ``python -m tests.training.sweeper OUT TRIALS``."""

from __future__ import annotations

import sys

import samo.training._sweep as sweep_module
from samo.training import plan_sweep, sweep
from tests.training.inline import TRAINED, InlineWorkers


def main() -> None:
    out, trials = sys.argv[1:]
    setattr(sweep_module, "Workers", InlineWorkers)  # noqa: B010 - as monkeypatch does
    space = {"lr": "1e-3..1e-1", "rho": "0.01..0.1"}
    plan = plan_sweep("tests.toy:Toy", ["ls"], ["erm", "gsam"], space, trials=int(trials), epochs=1)
    print("ready", flush=True)
    sys.stdin.readline()
    sweep(plan, out)
    print(*TRAINED, flush=True)


if __name__ == "__main__":
    main()
