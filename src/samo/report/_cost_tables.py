"""The tables of what steps cost."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ..cost import Row, Spread, rows
from ..records import write_atomically
from ._cost import memory_figure, time_figure
from ._write import save

_NONE = "–"
_HEADER = ["step", "passes", "time", "× bare", "× ERM", "aggregating", "memory", "+ m", "noise"]
LEGEND = (
    "passes: forwards with a graph + evaluations without / backwards; time: median (quartiles); "
    "× bare: times the same passes in a bare loop, median of the rounds' ratios (95 % interval); "
    "× ERM: times the package's ERM; aggregating: share of the time; memory: peak above the "
    "model's own; + m: by how many numbers a shared parameter that is more than one forward and "
    "backward pass takes; noise: random numbers drawn"
)


def cost_table(results: Mapping[str, Any]) -> Table:
    """What the steps of a case cost, for the terminal.

    Args:
        results: What `samo.cost.measure` gave.

    Returns:
        A table with a row a step.
    """
    table = Table(title=title(results), box=SIMPLE_HEAD, padding=0, show_edge=False)
    for number, heading in enumerate(h.replace("aggregating", "aggr.") for h in _HEADER):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    for row in rows(results):
        # Spreads are in the files: this is to fit a terminal.
        table.add_row(*(cell.partition(" (")[0] for cell in _cells(row)))
    return table


def title(results: Mapping[str, Any]) -> str:
    """Names a case with all that its times depend on.

    Args:
        results: What `samo.cost.measure` gave.

    Returns:
        A line.
    """
    setting, machine = results["setting"], results["machine"]
    numbers = dict(setting["numbers"])
    tasks, batch = numbers.pop("tasks"), numbers.pop("batch")
    where = machine["gpu"] or f"CPU, {setting['threads']} thread{'s'[: setting['threads'] > 1]}"
    return (
        f"{setting['case']}: K = {tasks}, batch {batch}, m = {results['shared_parameters']:,}, "
        f"{setting['method']}, {where}"
    )


def write_costs(results: Sequence[Mapping[str, Any]], out: Path | str) -> list[Path]:
    """Writes ``table.md``, ``table.csv``, and the figures ``time`` and ``memory`` of each method.

    Args:
        results: What `samo.cost.measure` gave, of several cases.
        out: The directory.

    Returns:
        The figures' PNG files.
    """
    out = Path(out)
    text, data = _markdown(results), _csv(results)
    write_atomically(out / "table.md", lambda path: path.write_text(text, encoding="utf-8"))
    write_atomically(out / "table.csv", lambda path: path.write_text(data, encoding="utf-8"))
    figures = []
    for method in dict.fromkeys(found["setting"]["method"] for found in results):
        of_method = [found for found in results if found["setting"]["method"] == method]
        for name, draw in (("time", time_figure), ("memory", memory_figure)):
            if (figure := draw(of_method)) is not None:
                figures.append(out / f"{name}-{method}.png")
                save(figure, figures[-1])
                save(figure, figures[-1].with_suffix(".svg"))
    return figures


def _cells(row: Row) -> list[str]:
    passes = f"{row.forwards}" + (f"+{row.evaluations}" if row.evaluations else "")
    return [
        row.name,
        f"{passes}/{row.backwards}",
        _NONE if row.seconds is None else _time(row.seconds),
        _ratio(row.to_bare),
        _ratio(row.to_erm),
        _NONE if row.aggregating is None else f"{row.aggregating:.1%}",
        _NONE if row.peak_bytes is None else _bytes(row.peak_bytes),
        _NONE if row.above_one_pass is None else f"{row.above_one_pass:.1f}",
        _bytes(row.noise_bytes) if row.noise_bytes else _NONE,
    ]


def _time(seconds: Spread) -> str:
    factor, unit = (1, "s") if seconds.median >= 1 else (1e3, "ms")
    middle, low, high = (factor * s for s in (seconds.median, seconds.low, seconds.high))
    return f"{middle:.3g} {unit} ({low:.3g}–{high:.3g})"


def _ratio(spread: Spread | None) -> str:
    return _NONE if spread is None else f"{spread.median:.2f} ({spread.low:.2f}–{spread.high:.2f})"


def _bytes(number: int) -> str:
    return f"{number / 1e6:.3g} MB" if number < 1e9 else f"{number / 1e9:.3g} GB"


def _markdown(results: Sequence[Mapping[str, Any]]) -> str:
    lines = [f"{LEGEND[0].upper()}{LEGEND[1:]}.", ""]
    machines = {_machine(found["machine"]) for found in results}
    lines += [f"{machine}." for machine in sorted(machines)]
    for found in results:
        rounds = {len(step["seconds"]) for step in found["steps"].values()}
        span = f"{min(rounds)}" if len(rounds) == 1 else f"{min(rounds)} to {max(rounds)}"
        lines += ["", f"### {title(found)}; {span} rounds", ""]
        lines += [f"| {' | '.join(_HEADER)} |", "| --- |" + " ---: |" * (len(_HEADER) - 1)]
        lines += [f"| {' | '.join(_cells(row))} |" for row in rows(found)]
    return "\n".join(lines) + "\n"


def _machine(machine: Mapping[str, Any]) -> str:
    gpu = f"{machine['gpu']}, " if machine["gpu"] else ""
    commit = f" at {machine['commit']}" if machine["commit"] else ""
    return (
        f"{gpu}{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python "
        f"{machine['python']}, torch {machine['torch']}, torchjd {machine['torchjd']}, samo "
        f"{machine['samo']}{commit}"
    )


def _csv(results: Sequence[Mapping[str, Any]]) -> str:
    names = [field.name for field in fields(Row)]
    of_setting = ["case", "size", "method", "device", "threads"]
    spreads = {"seconds", "to_bare", "to_erm", "bare_to_erm"}
    parts = ("median", "low", "high")
    header = [*of_setting, "tasks", "batch", "rounds"]
    for name in names:
        header += [f"{name}_{part}" for part in parts] if name in spreads else [name]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    for found in results:
        setting = found["setting"]
        start = [setting[name] for name in of_setting]
        start += [setting["numbers"][name] for name in ("tasks", "batch")]
        for row in rows(found):
            line = [*start, len(found["steps"][row.name]["seconds"])]
            for name in names:
                value = getattr(row, name)
                several = [getattr(value, part, None) for part in parts]
                line += several if name in spreads else [value]
            writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in line])
    return file.getvalue()
