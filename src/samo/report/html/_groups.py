"""Which runs can be held against each other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...records.foreign import UnusableError, parse, plain, read_text
from ...records.scan import Findings, FoundRun, State
from .._rows import Entry, Summary
from .._summary import summarize, sweep_words

# What may differ between runs that are compared: it is what is compared, or of no account.
_OWN = {
    "method",
    "method_options",
    "sharpness",
    "sharpness_options",
    "rho",
    "seed",
    "tasks",
    "threads",
    "device",
}


@dataclass
class Group:
    """Runs of one benchmark that are held against each other.

    Attributes:
        title: What it is called in the report.
        runs: Its runs.
        remarks: What should be said of them.
        summary: Its tables, of the finished runs.
        left_out: Finished runs that do not fit the others, with the reason.
    """

    title: str
    runs: list[FoundRun]
    remarks: list[str] = field(default_factory=list)
    summary: Summary | None = None
    left_out: list[tuple[FoundRun, str]] = field(default_factory=list)

    @property
    def benchmark(self) -> str:
        """The benchmark of its runs."""
        return str(self.runs[0].config["benchmark"])

    @property
    def states(self) -> Counter[State]:
        """How many runs there are in each state."""
        return Counter(run.state for run in self.runs)

    def summed_up(self, *, published: bool) -> Group:
        """Sums up the finished runs.

        Args:
            published: Whether to quote published results.

        Returns:
            Itself.
        """
        expected = _usual([run for run in self.runs if not run.baseline] or self.runs)
        fitting = []
        for run in self.runs:
            reason = _misfit(run, expected)
            if reason:
                self.left_out.append((run, reason))
            results = None if reason else run.results
            fitting.append(Entry(run.config, run.baseline, results))
        self.summary = summarize(fitting, published=published, remarks=self.remarks)
        return self


def groups(found: Findings) -> list[Group]:
    """Divides what was found: each comparison by benchmark, other runs by what fits together.

    Args:
        found: What was found.

    Returns:
        The groups.
    """
    made = []
    for directory, runs in found.comparisons.items():
        parts = _divided(runs, lambda run: run.config["benchmark"])
        for part in parts:
            remarks = _by_sweep(found, directory)
            made.append(Group(_title(part, directory, len(parts)), part, remarks))
    parts = _divided(found.others, _setting)
    for i, part in enumerate(parts):
        where = part[0].path if len(part) == 1 else "runs of no comparison"
        group = Group(_title(part, where, 1), part)
        same = sum(p[0].config["benchmark"] == group.benchmark for p in parts)
        if len(part) > 1 and same > 1:
            group.title += f" ({i + 1})"
            group.remarks.append(
                "Runs with other settings of the same benchmark are in a table of their own."
            )
        made.append(group)
    return made


def _title(runs: Sequence[FoundRun], where: str, parts: int) -> str:
    benchmark = str(runs[0].config["benchmark"])
    return benchmark if where == "." and parts == 1 else f"{benchmark}: {where}"


def _setting(run: FoundRun) -> str:
    """What must agree for runs to be held against each other, as far as that can be told."""
    shared = {key: value for key, value in run.config.items() if key not in _OWN}
    if run.results is not None and not run.baseline:
        shared["tasks"] = run.results["tasks"]
    return json.dumps(shared, sort_keys=True, default=str)


def _divided(runs: Iterable[FoundRun], key: Callable[[FoundRun], str]) -> list[list[FoundRun]]:
    """Divides runs by a key, and such that none of them is there twice in one part."""
    parts: dict[tuple[str, int], list[FoundRun]] = {}
    counts: Counter[str] = Counter()
    for run in runs:
        c = run.config
        arm = {n: c.get(n) for n in ("method_options", "sharpness_options")}
        same = [key(run), *(repr(c[n]) for n in ("method", "sharpness", "rho", "seed", "tasks"))]
        identity = json.dumps([*same, run.baseline, arm if run.baseline else None], default=str)
        parts.setdefault((key(run), counts[identity]), []).append(run)
        counts[identity] += 1
    return list(parts.values())


def _usual(runs: Sequence[FoundRun]) -> dict[tuple[str, str], Any]:
    """The metrics that most finished runs have."""
    found = Counter(json.dumps(run.results["metrics"]) for run in runs if run.results is not None)
    most: dict[str, Any] = json.loads(found.most_common(1)[0][0]) if found else {}
    return {
        (task, name): about for task, metrics in most.items() for name, about in metrics.items()
    }


def _misfit(run: FoundRun, expected: dict[tuple[str, str], Any]) -> str:
    """Why a finished run cannot stand beside the others; nothing if it can."""
    if run.results is None:
        return ""
    own = {
        (task, name): about
        for task, metrics in run.results["metrics"].items()
        for name, about in metrics.items()
    }
    fits = own.items() <= expected.items() if run.baseline else own == expected
    return "" if fits else "its tasks or metrics are not those of the others"


def _by_sweep(found: Findings, directory: str) -> list[str]:
    """Words how a sweep chose the settings that are compared."""
    file = found.root / directory / "best.json"
    if not file.exists():
        return []
    try:
        return [plain(sweep_words(parse(read_text(file, found.root))), 2000)]
    except (UnusableError, LookupError, TypeError, AttributeError) as error:
        found.left_out(file, f"it is not what a sweep writes: {error}")
        return []
