"""torchrun: ranks that are killed, runs that go on."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PATIENCE = 600.0


def torchrun(out: Path, ranks: int, *options: str, restarts: int = 0) -> list[str]:
    """The command that trains there."""
    elastic = ["--standalone", f"--nproc-per-node={ranks}", f"--max-restarts={restarts}"]
    pace = ["--monitor-interval=0.2"]
    script = [str(ROOT / "examples" / "distributed.py"), f"--checkpoint={out}", *options]
    return [sys.executable, "-m", "torch.distributed.run", *elastic, *pace, *script]


def environment() -> dict[str, str]:
    """One thread a process, this checkout's package, and a store of its own for each restart."""
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    return {**os.environ, **own, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


def train(out: Path, ranks: int, *options: str) -> dict[str, Any]:
    """An undisturbed run; its last checkpoint."""
    command = torchrun(out, ranks, *options)
    subprocess.run(command, env=environment(), check=True, timeout=PATIENCE, capture_output=True)
    return checkpoint(out)


def checkpoint(out: Path) -> dict[str, Any]:
    """The last checkpoint."""
    parts, _, step = torch.load(out, weights_only=True)
    return {"model": parts["model_state_dict"], "step": step}


def children(parent: int) -> list[int]:
    """The processes that a process has started."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if entry.name.isdigit() and int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(entry.name))
    return found


def same_model(one: dict[str, Any], other: dict[str, Any], tolerance: float) -> None:
    """Asserts that two checkpoints hold the same parameters."""
    assert one["step"] == other["step"]
    for name, value in other["model"].items():
        found = one["model"][name]
        torch.testing.assert_close(found, value, rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("options", [(), ("--fsdp",)], ids=["replicated", "sharded"])
def test_the_number_of_ranks_may_change(tmp_path, options):
    """Two ranks, then three, then one: the end is that of one rank alone."""
    want = train(tmp_path / "alone.pt", 1, "--steps=30")
    for ranks, steps in [(2, 10), (3, 20), (1, 30)]:
        found = train(tmp_path / "changing.pt", ranks, f"--steps={steps}", "--every=10", *options)
    same_model(found, want, 1e-8)


def test_twenty_kills(tmp_path):
    """kill -9 of a rank at random points: each time all start again from the last checkpoint."""
    kills, steps = 20, 800
    want = train(tmp_path / "undisturbed.pt", 2, f"--steps={steps}", "--every=10")
    out, log = tmp_path / "killed.pt", tmp_path / "log"
    command = torchrun(out, 2, f"--steps={steps}", "--every=10", restarts=kills + 5)
    dice = random.Random(0)
    starts: list[int] = []
    with log.open("w") as file:
        agent = subprocess.Popen(command, env=environment(), stdout=file, stderr=file)
    try:
        for kill in range(kills):
            _wait(lambda: len(_starts(log)) >= 2 * (kill + 1), agent)  # noqa: B023
            # In steps, not seconds: however quick the machine, the run is not over before.
            saves = len(_saves(log)) + dice.randrange(3)
            _wait(lambda: len(_saves(log)) >= saves, agent)  # noqa: B023
            time.sleep(dice.uniform(0, 0.1))
            workers = children(agent.pid)
            assert len(workers) == 2, log.read_text()
            saved = checkpoint(out)["step"] if out.exists() else 0
            os.kill(dice.choice(workers), signal.SIGKILL)
            _wait(lambda: not set(workers) & set(children(agent.pid)), agent)  # noqa: B023
            starts.append(saved)
        assert agent.wait(PATIENCE) == 0, log.read_text()
    finally:
        for process in [*children(agent.pid), agent.pid]:
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        agent.wait()
    assert not [process for process in _commands() if str(out) in process]  # no orphan
    found = _starts(log)
    assert len(found) == 2 * (kills + 1)
    for number, saved in enumerate(starts):  # no start is before the checkpoint that was there
        again = found[2 * (number + 1) : 2 * (number + 2)]
        assert again[0] == again[1] >= saved
    assert found[-1] > 100
    same_model(checkpoint(out), want, 0.0)


def _starts(log: Path) -> list[int]:
    return [int(step) for step in re.findall(r"starts at step (\d+)", log.read_text())]


def _saves(log: Path) -> list[str]:
    return re.findall(r"^\d+ \{", log.read_text(), re.MULTILINE)


def _commands() -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


def _wait(condition: Any, agent: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert agent.poll() is None, "torchrun has ended"
        assert time.monotonic() < end, "a hang"
        time.sleep(0.05)
