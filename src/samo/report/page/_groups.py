"""Groups runs that can be compared."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...records.foreign import UnusableError, parse, plain, read_text
from ...records.scan import Findings, FoundRun
from ..summary import Entry, Summary, format_choices, summarize

# The settings that may differ between runs of a group: they are compared, or irrelevant.
_OWN = {
    "method",
    "method_options",
    "sharpness",
    "sharpness_options",
    "rho",
    "level",
    "seed",
    "tasks",
    "threads",
    "device",
}

# The settings that tell the runs of a table apart.
_COMPARED = ("method", "sharpness", "rho", "level", "seed", "tasks")
_MOST = 20


@dataclass
class Group:
    """Runs of one benchmark that are compared.

    Attributes:
        title: The title in the report.
        runs: The runs.
        remarks: Remarks on them.
        contrasts: The contrasts that they were made for.
        sources: The sources of the published results in its summary.
        left_out: Finished runs that do not fit the others, with the reason.
    """

    title: str
    runs: list[FoundRun]
    remarks: list[str] = field(default_factory=list)
    contrasts: Sequence[str] = ()
    sources: tuple[str, ...] = ()
    left_out: list[tuple[FoundRun, str]] = field(default_factory=list)

    @property
    def benchmark(self) -> str:
        """The benchmark of the runs."""
        return str(self.runs[0].config["benchmark"])

    def summarized(self, *, published: bool) -> Summary:
        """Summarises the finished runs, with published results or without."""
        expected = _usual([run for run in self.runs if not run.baseline] or self.runs)
        fitting = []
        for run in self.runs:
            reason = _misfit(run, expected)
            if reason:
                self.left_out.append((run, reason))
            results = None if reason else run.results
            fitting.append(Entry(run.config, run.baseline, results, run.weights))
        summary = summarize(
            fitting, published=published, remarks=self.remarks, named=self.contrasts
        )
        self.sources = summary.sources
        return summary


def groups(found: Findings, contrasts: Sequence[str] = ()) -> list[Group]:
    """Groups all runs: in a comparison by benchmark, others by shared settings.

    Args:
        found: The runs.
        contrasts: Contrasts of all comparisons, besides those that each names itself.

    Returns:
        The first groups, at most `_MOST`, since each takes about a second to draw. If there are
        more, this is added to the problems found.
    """
    made = []
    for directory, runs in found.comparisons.items():
        parts = _divided(runs, lambda run: run.config["benchmark"])
        for part in parts:
            remarks = _by_sweep(found, directory)
            named = list(dict.fromkeys([*found.contrasts.get(directory, ()), *contrasts]))
            made.append(Group(_title(part, directory, len(parts)), part, remarks, named))
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
    if rest := made[_MOST:]:
        n_runs = sum(len(group.runs) for group in rest)
        found.left_out(
            found.root,
            f"{n_runs} runs would need {len(rest)} more tables, because they repeat or do not "
            f"share the configuration of the others. They are in the table of all runs only; "
            f"report a subdirectory to compare them.",
        )
    return made[:_MOST]


def _title(runs: Sequence[FoundRun], where: str, parts: int) -> str:
    benchmark = str(runs[0].config["benchmark"])
    return benchmark if where == "." and parts == 1 else f"{benchmark}: {where}"


def _setting(run: FoundRun) -> str:
    """The settings that must agree for runs to be compared."""
    shared = {key: value for key, value in run.config.items() if key not in _OWN}
    if run.results is not None and not run.baseline:
        shared["tasks"] = run.results["tasks"]
    return json.dumps(shared, sort_keys=True, default=str)


def _divided(runs: Iterable[FoundRun], key: Callable[[FoundRun], str]) -> list[list[FoundRun]]:
    """Divides runs by a key so that no part has two runs with the same configuration."""
    parts: dict[tuple[str, int], list[FoundRun]] = {}
    counts: Counter[str] = Counter()
    for run in runs:
        c = run.config
        arm = {n: c.get(n) for n in ("method_options", "sharpness_options")}
        same = [key(run), *(repr(c[name]) for name in _COMPARED)]
        identity = json.dumps([*same, run.baseline, arm if run.baseline else None], default=str)
        parts.setdefault((key(run), counts[identity]), []).append(run)
        counts[identity] += 1
    return list(parts.values())


def _usual(runs: Sequence[FoundRun]) -> dict[tuple[str, str], Any]:
    """The metrics that most finished runs have."""
    found = Counter(json.dumps(run.results["metrics"]) for run in runs if run.results is not None)
    return _by_metric(json.loads(found.most_common(1)[0][0])) if found else {}


def _by_metric(metrics: dict[str, dict[str, Any]]) -> dict[tuple[str, str], Any]:
    return {(task, name): about for task, of in metrics.items() for name, about in of.items()}


def _misfit(run: FoundRun, expected: dict[tuple[str, str], Any]) -> str:
    """Why a finished run cannot be compared with the others; ``""`` if it can."""
    if run.results is None:
        return ""
    own = _by_metric(run.results["metrics"])
    fits = own.items() <= expected.items() if run.baseline else own == expected
    return "" if fits else "its tasks or metrics are not those of the others"


def _by_sweep(found: Findings, directory: str) -> list[str]:
    """Formats the choices of a sweep."""
    file = found.root / directory / "best.json"
    if not file.exists():
        return []
    try:
        return [plain(format_choices(parse(read_text(file, found.root))), 2000)]
    except (UnusableError, LookupError, TypeError, AttributeError) as error:
        found.left_out(file, f"it was not written by a sweep: {error}")
        return []
