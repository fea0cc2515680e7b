"""The cost of steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.table import Table as RichTable

from ...cost import MedianRange, StepCost, step_costs
from ._render import rich, to_csv, to_markdown
from ._table import Cell, Table, cell

_LEGEND = (
    "time: median (quartiles); × plain: times sum(losses).backward(), median of the rounds' ratios "
    "(95 % interval); passes: forwards with a graph + evaluations without / backwards; × bare: "
    "times the same passes in a bare loop; memory: peak above the model's own, also in times that "
    "of the plain step, and (+ m) above it in numbers per shared parameter; noise: random numbers "
    "drawn"
)
_SPREADS = ("seconds", "to_plain", "to_bare", "bare_to_plain")


def costs_table(results: Mapping[str, Any], *, spreads: bool = True) -> Table:
    """Creates the table of a case, with a row per step; without spreads it fits a terminal."""

    def time(found: MedianRange | None) -> Cell:
        if found is None:
            return Cell()
        factor, unit = (1, "s") if found.median >= 1 else (1e3, "ms")
        low, high = factor * found.low, factor * found.high
        spread = f" ({low:.3g}–{high:.3g})" if spreads else ""
        return Cell(f"{factor * found.median:.3g} {unit}{spread}", found.median)

    def ratio(found: MedianRange | None) -> Cell:
        if found is None:
            return Cell()
        spread = f" ({found.low:.2f}–{found.high:.2f})" if spreads else ""
        return Cell(f"{found.median:.2f}{spread}", found.median)

    steps = step_costs(results)
    columns = [
        ("step", [Cell(row.name) for row in steps]),
        ("passes", map(_passes, steps)),
        ("time", [time(row.seconds) for row in steps]),
        ("× plain", [ratio(row.to_plain) for row in steps]),
        ("× bare", [ratio(row.to_bare) for row in steps]),
        ("memory", [_bytes(row.peak_bytes) for row in steps]),
        ("× plain memory", [cell(row.peak_to_plain, ".2f") for row in steps]),
        ("+ m", [cell(row.above_plain, ".1f") for row in steps]),
        ("noise", [_bytes(row.noise_bytes or None) for row in steps]),
    ]
    if not any(row.to_bare for row in steps):
        columns = [column for column in columns if column[0] != "× bare"]
    return Table.of_columns(columns, title=_title(results))


def cost_table(results: Mapping[str, Any]) -> RichTable:
    """Creates the terminal table of a result of `samo.cost.measure`, with a row per step."""
    return rich(costs_table(results, spreads=False), close=True)


def _title(results: Mapping[str, Any]) -> str:
    """Names a case with all that its times depend on."""
    setting, machine = results["setting"], results["machine"]
    numbers, threads = setting["numbers"], setting["threads"]
    where = machine["gpu"] or f"CPU, {threads} thread{'s'[: threads > 1]}"
    return (
        f"{setting['case']}: K = {numbers['tasks']}, batch {numbers['batch']}, "
        f"m = {results['shared_parameters']:,}, {setting['method']}, {where}"
    )


def _passes(row: StepCost) -> Cell:
    if row.forwards is None:
        return Cell()
    forwards = f"{row.forwards}" + (f"+{row.evaluations}" if row.evaluations else "")
    return Cell(f"{forwards}/{row.backwards}", row.forwards)


def _bytes(number: int | None) -> Cell:
    if number is None:
        return Cell()
    text = f"{number / 1e6:.3g} MB" if number < 1e9 else f"{number / 1e9:.3g} GB"
    return Cell(text, number)


def costs_markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """Formats several cases as Markdown, with the machines and a legend."""
    lines = [f"{_LEGEND[0].upper()}{_LEGEND[1:]}.", ""]
    lines += [f"{machine}." for machine in sorted({_machine(r["machine"]) for r in results})]
    for found in results:
        rounds = {len(step["seconds"]) for step in found["steps"].values()}
        span = f"{min(rounds)}" if len(rounds) == 1 else f"{min(rounds)} to {max(rounds)}"
        table = costs_table(found)
        lines += ["", f"### {table.title}; {span} rounds", "", to_markdown(table)]
    return "\n".join(lines) + "\n"


def _machine(machine: Mapping[str, Any]) -> str:
    gpu = f"{machine['gpu']}, " if machine["gpu"] else ""
    commit = f" at {machine['commit']}" if machine["commit"] else ""
    return (
        f"{gpu}{machine['cpu']}, {machine['cores']} cores, {machine['system']}, Python "
        f"{machine['python']}, torch {machine['torch']}, torchjd {machine['torchjd']}, samo "
        f"{machine['samo']}{commit}"
    )


def write_costs_csv(path: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Writes several cases as CSV, with six digits."""
    lines = []
    for found in results:
        setting, numbers = found["setting"], found["setting"]["numbers"]
        start = {name: setting[name] for name in ("case", "size", "method", "device", "threads")}
        start |= {name: numbers[name] for name in ("tasks", "batch")}
        for row in step_costs(found):
            line = {**start, "rounds": len(found["steps"][row.name]["seconds"])}
            for field in fields(StepCost):
                value = getattr(row, field.name)
                if field.name in _SPREADS:
                    parts = ("median", "low", "high")
                    line |= {f"{field.name}_{part}": getattr(value, part, None) for part in parts}
                else:
                    line[field.name] = value
            lines.append({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in line.items()})
    table = Table.of_values(list(lines[0]), [line.values() for line in lines])
    to_csv(path, table, lineterminator="\n")
