"""Measures what balance and sharpness cost, as multiples of plain backprop, for docs/cost.md.

    python benchmarks/cost.py [--rounds 4] [--out runs/cost]

Takes about ten minutes on one thread of an idle processor. Repeat an interrupted command to
continue. Writes the tables in docs/cost.md, the figure docs/images/growth.png, and all measurements
with their spread in benchmarks/results/cost.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from rich.console import Console
from rich.progress import track

from samo.cost import CASES, SUBJECTS, Conditions, MedianRange, StepCost, build, measure, step_costs
from samo.model import cut_of
from samo.report import save
from samo.report.figures.style import house_style, legend, look, panels
from samo.report.tables import costs_markdown, write_costs_csv

ROOT = Path(__file__).parents[1]
AT_REPRESENTATION = tuple(f"{name}-representation" for name in ("erm", "msam", "heads", "gsam"))
AT_PARAMETERS = ("erm", "gsam")
TORCHJD = ("torchjd", "torchjd-autogram")
GROWING = ("erm-representation", "gsam-representation", "erm")
TASKS = (1, 2, 5, 10, 20, 40, 100)


@dataclass(frozen=True)
class Part:
    """Steps that are measured on one workload.

    Attributes:
        case: The case.
        numbers: The sizes that differ from its standard size.
        steps: The steps, besides plain backprop.
        method: The aggregation method.
        timed: Whether times are measured, besides memory. If not, all cores are used.
        bare: Whether the bare arithmetic is timed as well.
    """

    case: str
    numbers: Mapping[str, int]
    steps: Sequence[str]
    method: str = "fairgrad"
    timed: bool = True
    bare: bool = False

    def conditions(self, threads: int, *, small: bool) -> Conditions:
        """Returns the conditions of the measurements."""
        sizes = CASES[self.case].sizes
        numbers = {**sizes["standard"], **self.numbers}
        if small:
            numbers = {**numbers, **sizes["small"], "tasks": numbers["tasks"]}
        if not self.timed:
            threads = torch.get_num_threads()
        return Conditions(self.case, "custom", numbers, self.method, "cpu", threads)


def perceptron(tasks: int, method: str) -> Part:
    """Returns the part of a small model."""
    steps = ("erm", *AT_REPRESENTATION, "samo") if method == "fairgrad" else ("erm", "gsam", "samo")
    return Part("mlp", {"tasks": tasks, "batch": 64}, steps, method, bare=True)


PARTS = {
    "celeba-32": Part("celeba", {"batch": 32}, AT_REPRESENTATION),
    "celeba-8": Part(
        "celeba", {"batch": 8}, (*AT_REPRESENTATION, *AT_PARAMETERS, *TORCHJD, "samo")
    ),
    "segnet": Part(
        "segnet-mtan", {"height": 64, "across": 96}, (*AT_REPRESENTATION, "erm", "torchjd")
    ),
    "segnet-nyuv2": Part(
        "segnet-mtan",
        {"height": 288, "across": 384, "batch": 1},
        ("erm-representation", "erm"),
        timed=False,
    ),
    **{
        f"perceptron-{tasks}-{method}": perceptron(tasks, method)
        for tasks in (2, 11)
        for method in ("ls", "fairgrad")
    },
    **{
        f"growth-{tasks}": Part("celeba", {"tasks": tasks, "batch": 8, "side": 32}, GROWING)
        for tasks in TASKS
    },
}
ROWS = {
    "plain": "`sum(losses).backward()`",
    "erm-representation": "`ERM`, representation",
    "erm": "`ERM`, parameters",
    "torchjd": "TorchJD `mtl_backward`",
    "torchjd-autogram": "TorchJD `autogram.Engine`",
    "msam-representation": "`MSAM`, representation",
    "heads-representation": "heads only, representation",
    "gsam-representation": "`GSAM`, representation",
    "gsam": "`GSAM`, parameters",
    "samo": "`SAMO`",
}
PICTURE = "![Time and memory by the number of tasks, in units of plain](images/growth.png)"
Costs = Mapping[str, Mapping[str, StepCost]]
"""The costs by part and step."""


def time(cost: StepCost | None) -> str:
    """Formats the time of a step in times of plain backprop."""
    return "" if cost is None or cost.to_plain is None else f"{cost.to_plain.median:.3g}"


def memory(cost: StepCost | None) -> str:
    """Formats the memory of a step in times of that of plain backprop."""
    return "" if cost is None or cost.peak_to_plain is None else f"{cost.peak_to_plain:.2f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a table in Markdown."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def columns(costs: Costs, found: Mapping[str, tuple[str, Callable[[StepCost | None], str]]]) -> str:
    """Formats a table with a row for each step, and columns of these parts and formats."""
    rows = []
    for step, title in ROWS.items():
        cells = [form(costs[part].get(step)) for part, form in found.values()]
        if any(cells):
            rows.append([title, *cells])
    plain = [costs[part]["plain"] for part, _ in found.values()]
    absolute = [
        f"{cost.seconds.median:.3g} s"
        if form is time and cost.seconds
        else f"{(cost.peak_bytes or 0) / 1e6:.0f} MB"
        for cost, (_, form) in zip(plain, found.values(), strict=True)
    ]
    rows[0] = [f"{rows[0][0]}: 1 =", *absolute]
    return table(["step", *found], rows)


def main_table(costs: Costs) -> str:
    """Formats the cost of all steps on the large networks."""
    return columns(
        costs,
        {
            "CelebA, K = 40, batch 32": ("celeba-32", time),
            "batch 8": ("celeba-8", time),
            "SegNet-MTAN, K = 3": ("segnet", time),
            "memory: CelebA, batch 8": ("celeba-8", memory),
            "SegNet-MTAN, 288 × 384": ("segnet-nyuv2", memory),
        },
    )


def small_table(costs: Costs) -> str:
    """Formats the cost of the steps of a small model."""
    parts = [name for name in PARTS if name.startswith("perceptron")]
    titles = [f"K = {name.split('-')[1]}, `{name.split('-')[2]}`" for name in parts]
    return columns(costs, {title: (part, time) for title, part in zip(titles, parts, strict=True)})


def growth_table(costs: Costs) -> str:
    """Formats the cost by the number of tasks."""
    rows = []
    for what, form in (("time", time), ("memory", memory)):
        for step in GROWING:
            cells = [form(costs[f"growth-{tasks}"].get(step)) for tasks in TASKS]
            rows.append([f"{what}: {ROWS[step]}", *cells])
    return table(["K", *map(str, TASKS)], rows)


def growth_figure(costs: Costs) -> Figure:
    """Plots time and memory by the number of tasks."""
    with house_style():
        figure, axes = panels(1, 2, height=2.6)
        for axis, what in zip(axes[0], ("time", "peak memory"), strict=True):
            for step in GROWING:
                found = [(k, costs[f"growth-{k}"][step]) for k in TASKS]
                y = [
                    cost.to_plain.median if what == "time" and cost.to_plain else cost.peak_to_plain
                    for _, cost in found
                ]
                style, label = look(step.partition("-")[0]), ROWS[step].replace("`", "")
                line = "-" if step.endswith("representation") else ":"
                axis.plot(TASKS, y, style.marker, linestyle=line, color=style.colour, label=label)
            axis.axhline(1, color="#bbbbbb", linewidth=1)
            axis.set(xscale="log", yscale="log", xlabel="tasks K", ylabel=f"{what} / plain")
            axis.set_xticks(TASKS, map(str, TASKS), minor=False)
            axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.minorticks_off()
        legend(figure, axes[0, 0].get_lines()[: len(GROWING)])
    return figure


def cut_size(wanted: Conditions) -> int:
    """Returns the numbers at the cut."""
    workload = build(wanted.case, wanted.numbers, torch.device("cpu"))
    cut = cut_of(workload.losses()(workload.tasks), {id(p) for p in workload.shared})
    return sum(tensor.numel() for tensor in cut.like())


def time_limits(costs: Costs) -> Iterator[tuple[str, float, float]]:
    """Yields multiples of time, measured and at most."""
    large = {"erm": 1.15, "gsam": 2.2, "msam": 1.2, "heads": 1.6}
    checks = [
        (part, f"{step}-representation", limit)
        for part in ("celeba-32", "celeba-8")
        for step, limit in large.items()
    ]
    checks.append(("segnet", "erm-representation", 1.25))
    for tasks in (2, 11):
        checks.append((f"perceptron-{tasks}-ls", "erm", 1.4))
        checks.append((f"perceptron-{tasks}-fairgrad", "erm-representation", 1.8))
    for part, step, limit in checks:
        yield f"{part}: {ROWS[step]}", multiple(costs[part][step].to_plain), limit
    for tasks in (2, 11):
        part = f"perceptron-{tasks}-fairgrad"
        yield f"{part}: `SAMO` / bare", multiple(costs[part]["samo"].to_bare), 1.4
    many, few = (multiple(costs[f"growth-{k}"]["erm-representation"].to_plain) for k in (100, 10))
    yield "`ERM`, representation: growth from K = 10 to 100 / plain's", many / few, 1.1


def memory_limits(
    costs: Costs, results: Mapping[str, dict[str, Any]], cuts: Mapping[str, int]
) -> Iterator[tuple[str, float, float]]:
    """Yields the memory above that of plain backprop, in numbers per shared parameter."""
    for part, cut in cuts.items():
        tasks = results[part]["setting"]["numbers"]["tasks"]
        limit = tasks * cut / results[part]["shared_parameters"] + 3
        for step in AT_REPRESENTATION:
            if step in costs[part]:
                yield (
                    f"{part}: {ROWS[step]}, memory above plain / m",
                    above(costs, part, step),
                    limit,
                )
    part = "segnet-nyuv2"
    found, limit = (above(costs, part, step) for step in ("erm-representation", "erm"))
    yield f"{part}: memory not above that at the parameters", found, limit


def multiple(found: MedianRange | None) -> float:
    """Returns a measured ratio."""
    assert found is not None
    return found.median


def above(costs: Costs, part: str, step: str) -> float:
    """Returns the memory above that of plain backprop, in numbers per shared parameter."""
    found = costs[part][step].above_plain
    assert found is not None
    return found


def targets(checks: Iterable[tuple[str, float, float]]) -> str:
    """Formats measured numbers and their upper limits."""
    rows = [
        [title, f"{value:.3g}", f"{limit:.3g}", "yes" if value <= limit else "no"]
        for title, value, limit in checks
    ]
    return table(["", "measured", "at most", "met"], rows)


def machine_line(results: Mapping[str, dict[str, Any]]) -> str:
    """Names the machine and the software."""
    first = next(iter(results.values()))
    machine, threads = first["machine"], first["setting"]["threads"]
    return (
        f"{machine['cpu']}, {threads} of {machine['cores']} cores, torch {machine['torch']}, "
        f"TorchJD {machine['torchjd']}."
    )


def replaced(page: str, parts: Mapping[str, str]) -> str:
    """Replaces the parts of a page that are between comments ``<!-- name -->``."""
    for name, text in parts.items():
        mark = f"<!-- {name} -->"
        start, _, end = page.split(mark)
        page = f"{start}{mark}\n\n{text}\n\n{mark}{end}"
    return page


def main() -> None:
    """Measures all parts, and writes tables and figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=4, help="timings of each step")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/cost"), help="the measurements")
    parser.add_argument("--root", type=Path, default=ROOT, help="where docs/ and benchmarks/ are")
    parser.add_argument("--small", action="store_true", help="tiny models, to try the program")
    given = parser.parse_args()
    console = Console()
    results: dict[str, dict[str, Any]] = {}
    for name, part in track(PARTS.items(), "measuring", console=console):
        subjects = {step: SUBJECTS[step] for step in ("plain", *part.steps)}
        wanted = part.conditions(given.threads, small=given.small)
        rounds = given.rounds if part.timed else 0
        file = given.out / f"{name}.json"
        results[name] = measure(wanted, subjects, file, steps=rounds, bare=part.bare)
    costs = {name: {cost.name: cost for cost in step_costs(r)} for name, r in results.items()}
    cuts = {
        name: cut_size(PARTS[name].conditions(given.threads, small=given.small))
        for name in ("celeba-32", "celeba-8", "segnet-nyuv2")
    }
    reached = targets([*time_limits(costs), *memory_limits(costs, results, cuts)])
    page = given.root / "docs" / "cost.md"
    found = {
        "machine": machine_line(results),
        "main": main_table(costs),
        "growth": f"{PICTURE}\n\n{growth_table(costs)}",
        "small": small_table(costs),
    }
    page.write_text(replaced(page.read_text("utf-8"), found), "utf-8")
    save(growth_figure(costs), given.root / "docs" / "images" / "growth.png")
    out = given.root / "benchmarks" / "results" / "cost"
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(costs_markdown(list(results.values())), "utf-8")
    (out / "targets.md").write_text(f"{reached}\n", "utf-8")
    write_costs_csv(out / "table.csv", list(results.values()))
    print(reached)


if __name__ == "__main__":
    main()
