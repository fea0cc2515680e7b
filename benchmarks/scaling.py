"""Compares the cost model of several processes with measured traffic and time.

    python benchmarks/scaling.py [--out benchmarks/results/scaling.md]

For each number of gloo processes and each setting, reports the bytes estimated by the model, passed
to collective operations, and sent through the loopback interface (in a separate network namespace,
if allowed); the time of a step with a fixed batch per rank (weak scaling), with both ways to reduce
the task gradients; and the number of calls with 1,024 ranks on PyTorch's fake process group.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from multiprocessing import Manager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from _cost_model import Cost, Sizes, cost  # type: ignore[import-not-found]
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.utils._python_dispatch import TorchDispatchMode

import samo
from samo.distributed import Replicated

TASKS = [f"task{i}" for i in range(4)]
SETTINGS: dict[str, tuple[samo.Perturbation | None, str, str]] = {
    "ERM, fairgrad": (None, "fairgrad", "gramian"),
    "GSAM, ls": (samo.Perturbation(0.05, alpha=1.0), "ls", "nothing"),
    "SAMO, fairgrad": (samo.Perturbation(0.05), "fairgrad", "gramian"),
    "LSAM, fairgrad": (
        samo.Perturbation(0.05, alpha=0.0, local=samo.ExactGradient()),
        "fairgrad",
        "gramian",
    ),
    "SAMO, graddrop": (samo.Perturbation(0.05), "graddrop", "gradients"),
}
BATCH = 8


class Net(nn.Module):
    """A trunk of about a million parameters and a head for each task."""

    def __init__(self, width: int = 512) -> None:
        super().__init__()
        layers = [nn.Linear(width, width), nn.Tanh()] * 4
        self.trunk = nn.Sequential(
            *(nn.Linear(width, width) if i % 2 == 0 else nn.Tanh() for i, _ in enumerate(layers))
        )
        self.heads = nn.ModuleDict({task: nn.Linear(width, 8) for task in TASKS})

    def losses(self, x: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Returns the loss of each task."""
        h = self.trunk(x)
        return {t: (self.heads[t](h) - TASKS.index(t)).square().mean() for t in tasks}


class Counted(TorchDispatchMode):
    """Counts collective operations and the bytes passed to them."""

    PAYLOAD = (
        "allreduce_",
        "broadcast_",
        "_allgather_base_",
        "_reduce_scatter_base_",
        "alltoall_base_",
    )

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name.startswith("c10d::"):
            tensors = [t for arg in args for t in (arg if isinstance(arg, list) else [arg])]
            sizes = [t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor)]
            self.calls[name.removeprefix("c10d::")] += 1
            self.bytes += max(sizes)  # the larger of input and output
        return func(*args, **(kwargs or {}))


def planned(name: str, ranks: int) -> Cost:
    """Returns the estimated cost of a setting."""
    perturbation, _, needs = SETTINGS[name]
    net = Net()
    sizes = Sizes(
        tasks=len(TASKS),
        shared=sum(p.numel() for p in net.trunk.parameters()),
        own=sum(p.numel() for p in net.heads.parameters()),
        tensors=len(list(net.parameters())),
    )
    return cost(perturbation, needs, sizes, ranks=ranks)


def engine_of(name: str, net: nn.Module, *, sync: bool = True) -> samo.Engine:
    """Makes the engine of a setting."""
    perturbation, method, _ = SETTINGS[name]
    return samo.Engine(
        net, TASKS, aggregator=method, perturbation=perturbation, sync_perturbation=sync
    )


def loopback() -> int:
    """Returns the bytes sent through the loopback interface so far."""
    lines = Path("/proc/net/dev").read_text(encoding="utf-8").splitlines()
    return next((int(x.split()[9]) for x in lines if x.strip().startswith("lo:")), 0)


def step_time(engine: samo.Engine, closure: Any, repeats: int) -> float:
    """Returns the minimum time of several steps, in seconds."""
    best = float("inf")
    for _ in range(repeats):
        if dist.is_initialized():
            dist.barrier()
        start = time.perf_counter()
        engine.backward(closure)
        best = min(best, time.perf_counter() - start)
    return best


def measure(rank: int, ranks: int, store: str, repeats: int, rows: Any) -> None:
    """Measures all settings on one rank."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    for name in SETTINGS:
        for form in ("as chosen", "all-reduce", "own perturbation"):
            needless = (
                SETTINGS[name][2] != "gramian"
                if form == "all-reduce"
                else (SETTINGS[name][0] is None and form == "own perturbation")
            )
            if needless or (ranks == 1 and form != "as chosen"):
                continue
            Replicated.divided_from = 1 << (60 if form == "all-reduce" else 18)
            torch.manual_seed(0)
            net = Net()
            engine = engine_of(name, net, sync=form != "own perturbation")
            x = torch.randn(BATCH, 512, generator=torch.Generator().manual_seed(rank))
            closure = lambda tasks, net=net, x=x: net.losses(x, tasks)  # noqa: E731
            engine.backward(closure)
            before = _still(ranks)
            with Counted() as counted:
                engine.backward(closure)
            wire = _still(ranks) - before
            seconds = step_time(engine, closure, repeats)
            if rank == 0:
                rows.append((name, form, ranks, counted.bytes, dict(counted.calls), wire, seconds))
    if ranks > 1:
        dist.destroy_process_group()


def _still(ranks: int) -> int:
    """Reads the counter of the loopback interface while nothing is sent."""
    if ranks > 1:
        dist.barrier()
        time.sleep(0.2)
        count = loopback()
        time.sleep(0.2)
        dist.barrier()
        return count
    return 0


def fake(ranks: int) -> dict[str, tuple[int, int]]:
    """Counts calls and bytes of each setting on one rank of a fake process group."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    found = {}
    for name in SETTINGS:
        torch.manual_seed(0)
        net = Net()
        engine = engine_of(name, net)
        x = torch.randn(BATCH, 512)
        closure = lambda tasks, net=net, x=x: net.losses(x, tasks)  # noqa: E731
        engine.backward(closure)
        with Counted() as counted:
            engine.backward(closure)
        found[name] = (sum(counted.calls.values()), counted.bytes)
    dist.destroy_process_group()
    return found


def report(rows: list[Any], faked: dict[str, tuple[int, int]], isolated: bool) -> str:
    """Formats the results in Markdown."""
    mebi = 1 << 20
    alone = {row[0]: row[6] for row in rows if row[2] == 1}
    lines = [
        "# The cost of several processes",
        "",
        f"`python benchmarks/scaling.py` on {platform.machine()} with {os.cpu_count()} cores, "
        f"torch {torch.__version__}, gloo, one thread per process; {len(TASKS)} tasks, "
        f"{sum(p.numel() for p in Net().trunk.parameters()):,} shared parameters in float32, "
        f"{BATCH} samples per rank. Bytes are those of one step, in MiB.",
        "",
        "| setting | form | ranks | given, model | given, counted | sent a rank, model "
        "| on the wire a rank | ms a step | of one process |",
        "| --- | --- | --: | --: | --: | --: | --: | --: | --: |",
    ]
    for name, form, ranks, given, _, wire, seconds in rows:
        model = planned(name, ranks)
        shown = form == "as chosen" and ranks > 1
        cells = [
            name,
            form,
            str(ranks),
            f"{model.payload / mebi:.3f}" if shown else "",
            f"{given / mebi:.3f}" if ranks > 1 else "",
            f"{model.sent / mebi:.3f}" if shown else "",
            f"{wire / ranks / mebi:.3f}" if ranks > 1 and isolated else "",
            f"{seconds * 1e3:.0f}",
            f"{seconds / alone[name]:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "1,024 ranks, on torch's fake process group (nothing is sent):",
        "",
        "| setting | calls, model | calls, counted | MiB given, model | MiB given, counted |",
        "| --- | --: | --: | --: | --: |",
    ]
    for name, (calls, given) in faked.items():
        model = planned(name, 1024)
        sizes = f"{model.payload / mebi:.3f} | {given / mebi:.3f}"
        lines.append(f"| {name} | {model.calls} | {calls} | {sizes} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Runs all measurements, in a separate network namespace if permitted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scaling.md"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--isolated", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not args.isolated:
        inside = ["unshare", "-n", "sh", "-c", 'ip link set lo up && exec "$0" "$@"']
        if subprocess.run([*inside[:4], "ip link set lo up"], check=False).returncode == 0:
            again = [*inside, sys.executable, *sys.argv, "--isolated"]
            sys.exit(subprocess.run(again, check=False).returncode)
    rows: list[Any] = []
    for ranks in args.ranks:
        with tempfile.TemporaryDirectory() as folder, Manager() as manager:
            found = manager.list()
            given = (ranks, f"{folder}/store", args.repeats, found)
            spawn(measure, given, ranks)
            rows += found
    text = report(rows, fake(1024), args.isolated)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
