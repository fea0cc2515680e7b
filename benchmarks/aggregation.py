"""Times every method that needs the Gramian, and TorchJD's class for the same method.

    python benchmarks/aggregation.py [--gramians 60] [--rounds 3] [--out DIR]

One process, one thread. The calls are interleaved: all methods process a Gramian before the next
one, and the order of the package's and TorchJD's class alternates, so that other load affects all
equally. The Gramians are computed from random float32 gradients, in float64 as in the engine:
a third independent, a third conflicting (nine tenths of their mean subtracted), and a third nearly
collinear. The tables have medians and quartiles over all calls.
"""

from __future__ import annotations

import os

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import argparse
import csv
import io
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchjd.aggregation
from torch import Tensor

from samo import aggregation
from samo.records import write_text

SIZES = (2, 11, 40)
PARAMETERS = 200
OUT = Path(__file__).parent / "results" / "aggregation"
Call = Callable[[Tensor], Tensor]


def matrices(n_tasks: int, count: int) -> list[Tensor]:
    """Returns task gradients, ``[K, 200]`` each, alternating between the three kinds."""
    generator = torch.Generator().manual_seed(n_tasks)
    made = []
    for index in range(count):
        matrix = torch.randn(n_tasks, PARAMETERS, generator=generator)
        common = torch.randn(PARAMETERS, generator=generator)
        made.append((matrix, matrix - 0.9 * matrix.mean(0), 0.1 * matrix + common)[index % 3])
    return made


def gramian(matrix: Tensor) -> Tensor:
    """Computes the inner products in float64, as the engine does."""
    wide = matrix.double()
    return wide @ wide.T


def of_this_package(name: str, n_tasks: int) -> Call:
    """Returns the weighting of the registry."""
    method: Any = aggregation.create(name, n_tasks)
    weighting = method.gramian_weighting
    return lambda matrix: weighting(gramian(matrix))


def of_torchjd(name: str, n_tasks: int) -> Call | None:
    """Returns TorchJD's weighting of the same method, if the package has a class of its own."""
    if name == "nash-mtl":  # takes the matrix, not the Gramian
        weighting = torchjd.aggregation.NashMTL(n_tasks).weighting
        return lambda matrix: weighting(matrix)
    described = aggregation.describe(name)
    options = dict(described.defaults)
    of_package = described.kind.__module__.startswith("samo")
    if options.pop("projector", None) is None and not of_package:
        return None
    base = described.kind.__name__.removesuffix("Weighting")
    kind: Any = getattr(torchjd.aggregation, f"{base}Weighting", None)
    if kind is None:
        return None
    other = kind(**options)
    return lambda matrix: other(gramian(matrix))


def timed(call: Call, matrix: Tensor) -> tuple[float, bool]:
    """Returns the milliseconds of a call, and whether it succeeded."""
    start = time.perf_counter()
    try:
        good = bool(call(matrix).isfinite().all())
    except Exception:  # TorchJD's solvers raise errors of many kinds
        good = False
    return 1e3 * (time.perf_counter() - start), good


def measure(n_tasks: int, gramians: int, rounds: int) -> list[dict[str, Any]]:
    """Measures all methods, one row for each."""
    names = [
        name
        for name in aggregation.available()
        if (method := aggregation.describe(name)).needs == "gramian" and method.min_tasks <= n_tasks
    ]
    calls = {
        (name, whose): call
        for name in names
        for whose, make in (("ours", of_this_package), ("torchjd", of_torchjd))
        if (call := make(name, n_tasks)) is not None
    }
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    failures = dict.fromkeys(calls, 0)
    inputs = matrices(n_tasks, gramians)
    for matrix in inputs[:3]:  # warm-up
        for call in calls.values():
            timed(call, matrix)
    for index, matrix in enumerate(inputs * rounds):
        for key in list(calls)[:: 1 if index % 2 else -1]:
            milliseconds, good = timed(calls[key], matrix)
            times[key].append(milliseconds)
            failures[key] += not good
    return [row(name, n_tasks, times, failures) for name in names]


def row(
    name: str,
    n_tasks: int,
    times: dict[tuple[str, str], list[float]],
    failures: dict[tuple[str, str], int],
) -> dict[str, Any]:
    """Computes medians and quartiles of one method."""
    found: dict[str, Any] = {"method": name, "tasks": n_tasks}
    for whose in ("ours", "torchjd"):
        if values := times.get((name, whose)):
            low, middle, high = statistics.quantiles(values, n=4)
            found |= {f"{whose}_q1": low, f"{whose}_median": middle, f"{whose}_q3": high}
            found[f"{whose}_failed"] = failures[name, whose] / len(values)
    if "torchjd_median" in found:
        found["ratio"] = found["torchjd_median"] / found["ours_median"]
    return found


def machine() -> str:
    """Describes the machine, the versions, and the load."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.processor() or platform.machine()
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "torchjd", "numpy"))
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return (
        f"{cpu}, {os.cpu_count()} cores (one used), {platform.system()}, Python "
        f"{platform.python_version()}, {packages}; load average {load} at the end"
    )


def as_csv(rows: Iterable[dict[str, Any]]) -> str:
    """Formats all numbers as CSV."""
    parts = ("q1", "median", "q3", "failed")
    fields = ["method", "tasks", *(f"{w}_{p}" for w in ("ours", "torchjd") for p in parts), "ratio"]
    file = io.StringIO()
    writer = csv.DictWriter(file, fields, lineterminator="\n")
    writer.writeheader()
    for found in rows:
        writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in found.items()})
    return file.getvalue()


def as_markdown(rows: Iterable[dict[str, Any]], gramians: int, rounds: int) -> str:
    """Formats the table in Markdown."""

    def cell(found: dict[str, Any], whose: str) -> str:
        if f"{whose}_median" not in found:
            return "–"
        low, middle, high = (found[f"{whose}_{part}"] for part in ("q1", "median", "q3"))
        failed = f", {found[f'{whose}_failed']:.0%} failed" if found[f"{whose}_failed"] else ""
        return f"{middle:.2f} ({low:.2f}–{high:.2f}{failed})"

    lines = [
        f"Milliseconds per call, median (quartiles) of {gramians} Gramians × {rounds} rounds; "
        "TorchJD's if it has another class.",
        "",
        f"{machine()}.",
        "",
        "| method | K | samo | TorchJD | TorchJD / samo |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for found in rows:
        ratio = f"{found['ratio']:.1f} ×" if "ratio" in found else "–"
        cells = (
            found["method"],
            found["tasks"],
            cell(found, "ours"),
            cell(found, "torchjd"),
            ratio,
        )
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and writes the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gramians", type=int, default=60, help="Gramians for each K")
    parser.add_argument("--rounds", type=int, default=3, help="calls for each Gramian")
    parser.add_argument("--out", type=Path, default=OUT, help="the directory of the tables")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # from cvxpy, in TorchJD's Nash-MTL
    measured = [measure(n_tasks, given.gramians, given.rounds) for n_tasks in SIZES]
    rows = sorted((r for rs in measured for r in rs), key=lambda r: (r["method"], r["tasks"]))
    table = as_markdown(rows, given.gramians, given.rounds)
    given.out.mkdir(parents=True, exist_ok=True)
    write_text(given.out / "table.csv", as_csv(rows))
    write_text(given.out / "table.md", table)
    print(table)


if __name__ == "__main__":
    main()
