"""Search for all runs in an untrusted directory, and for the state of each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from ._errors import RunError
from .directory import RunDirectory
from .foreign import UnusableError, parse, plain, read_text
from .schema import Config, Epoch, M, Planned, Results, sides, validated, weights_of

State = Literal["finished", "failed", "unfinished", "missing", "unreadable"]

_MOST_DIRECTORIES = 20_000
_DEEPEST = 10
_IDENTITY = ("benchmark", "method", "sharpness", "rho", "level", "ema", "seed", "tasks")


@dataclass(frozen=True)
class Problem:
    """A file or directory that was left out.

    Attributes:
        path: Its path, relative to the scanned directory.
        reason: Why it was left out.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class FoundRun:
    """A run in any state.

    Attributes:
        path: Its directory, relative to the scanned one and made printable.
        directory: Its directory, for reading.
        config: Its configuration.
        baseline: Whether it is a single-task baseline.
        weights: The weights that it is reported for.
        state: Its state.
        results: Content of ``results.json``, if it is finished.
        log: The epochs logged so far, if it is not.
        error: Why it failed or cannot be read.
    """

    path: str
    directory: Path
    config: dict[str, Any]
    baseline: bool
    weights: tuple[str, ...]
    state: State
    results: dict[str, Any] | None = None
    log: tuple[dict[str, Any], ...] = ()
    error: str = ""


@dataclass
class Findings:
    """Runs and problems found in a directory.

    Attributes:
        root: The directory, resolved.
        contrasts: The contrasts that each ``compare.json`` names, by its directory.
        comparisons: The runs that each ``compare.json`` lists, by its directory.
        trials: The runs of each sweep that are in no comparison, by the sweep's directory.
        others: All other runs.
        problems: The files and directories that were left out.
    """

    root: Path
    contrasts: dict[str, list[str]] = field(default_factory=dict)
    comparisons: dict[str, list[FoundRun]] = field(default_factory=dict)
    trials: dict[str, list[FoundRun]] = field(default_factory=dict)
    others: list[FoundRun] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def runs(self) -> list[FoundRun]:
        """All runs."""
        groups = [*self.comparisons.values(), *self.trials.values(), self.others]
        return [run for group in groups for run in group]

    def shown(self, path: Path) -> str:
        """Formats a path relative to the root."""
        return plain(path.relative_to(self.root).as_posix())

    def left_out(self, path: Path, reason: object) -> None:
        """Records that a path was left out."""
        self.problems.append(Problem(self.shown(path), plain(str(reason))))

    def json(self, file: Path) -> Any:
        """Reads a JSON file; raises UnusableError."""
        return parse(read_text(file, self.root))


def scan(root: Path) -> Findings:
    """Finds the runs in a directory and its subdirectories, without following links.

    Args:
        root: A comparison, a sweep, a run, or a directory that holds any of these.

    Returns:
        The runs, and the files and directories that were left out.
    """
    found = Findings(root.resolve())
    directories = list(_directories(found))
    claimed: set[Path] = set()
    for directory in directories:
        if (directory / "compare.json").exists():
            runs = list(_planned(directory, found))
            found.comparisons[found.shown(directory)] = runs
            claimed |= {run.directory for run in runs}
    sweeps = [directory for directory in directories if (directory / "sweep.json").exists()]
    for directory in directories:
        if directory in claimed or not RunDirectory(directory).begun:
            continue
        run = _alone(directory, found)
        if run is not None:
            above = [sweep for sweep in sweeps if directory.is_relative_to(sweep)]
            here = found.trials.setdefault(found.shown(above[-1]), []) if above else found.others
            here.append(run)
    return found


def _directories(found: Findings) -> Iterator[Path]:
    """Yields the directories that may hold runs, in order."""
    for count, (top, names, _) in enumerate(os.walk(found.root, followlinks=False)):
        directory = Path(top)
        if count >= _MOST_DIRECTORIES:
            reason = f"there are more than {_MOST_DIRECTORIES} directories: the rest is left out"
            found.left_out(directory, reason)
            return
        for name in sorted(names):
            if (directory / name).is_symlink():
                found.left_out(directory / name, "it is a link, which is not followed")
        deep = len(directory.relative_to(found.root).parts) >= _DEEPEST
        names[:] = [] if deep else sorted(n for n in names if _may_hold_runs(directory / n))
        yield directory


def _may_hold_runs(directory: Path) -> bool:
    skipped = directory.name.startswith(".") or directory.name in {"tensorboard", "analysis"}
    return not skipped and not directory.is_symlink()


def _planned(directory: Path, found: Findings) -> Iterator[FoundRun]:
    """Yields the runs that a comparison's plan lists, each directory once."""
    file = directory / "compare.json"
    try:
        content = found.json(file)
        plan = content.get("runs") if isinstance(content, dict) else None
        if not isinstance(plan, list):
            raise UnusableError("it has no list of runs")
    except UnusableError as error:
        found.left_out(file, error)
        return
    named = content.get("contrasts")
    if isinstance(named, list):
        found.contrasts[found.shown(directory)] = list(_contrasts(named, file, found))
    seen: set[Path] = set()
    for i, item in enumerate(plan):
        try:
            planned = _checked(Planned, item)
            there = _below(directory, planned.path, found.root)
        except UnusableError as error:
            found.left_out(file, f"run {i + 1}: {error}")
            continue
        if there not in seen:
            seen.add(there)
            yield _run(there, planned, found)


def _contrasts(named: list[Any], file: Path, found: Findings) -> Iterator[str]:
    """Yields the well-formed contrasts of a plan."""
    for text in named:
        try:
            sides(shown := plain(str(text), 200))
            yield shown
        except RunError as error:
            found.left_out(file, error)


def _checked(kind: type[M], value: Any) -> M:
    return validated(kind, value, foreign=True)


def _below(directory: Path, path: str, root: Path) -> Path:
    """Returns the directory of a run, which must be below that of its comparison."""
    parts = PurePosixPath(path)
    there = directory / path
    if not path or parts.is_absolute() or ".." in parts.parts or "\\" in path or "\0" in path:
        raise UnusableError(f"its path {plain(path, 80)!r} is outside the directory")
    try:
        if not there.resolve().is_relative_to(root):
            raise UnusableError(f"its path {plain(path, 80)!r} is a link to outside the directory")
        there.is_dir()  # fails if the name is too long
    except (OSError, RuntimeError) as error:
        raise UnusableError(plain(str(error))) from error
    return there


def _alone(directory: Path, found: Findings) -> FoundRun | None:
    """Reads a run that is in no comparison; None if its configuration cannot be read."""
    reasons = []
    for file, key in (("config.json", None), ("results.json", "config")):
        try:
            if (directory / file).exists():
                content = found.json(directory / file)
                config = _checked(Config, content if key is None else content[key])
                alone = config.tasks is not None and len(config.tasks) == 1
                return _run(directory, Planned(path="", baseline=alone, config=config), found)
        except (UnusableError, LookupError, TypeError) as error:
            reasons.append(f"{file}: {error}")
    found.left_out(directory, "; ".join(reasons) or "it has no configuration")
    return None


def _run(path: Path, planned: Planned, found: Findings) -> FoundRun:
    """Determines the state of a run."""
    config = planned.config.model_dump()
    scored = weights_of(config)
    weights = tuple(name for name in planned.weights or scored if name in scored)

    def run(state: State, **more: Any) -> FoundRun:
        return FoundRun(found.shown(path), path, config, planned.baseline, weights, state, **more)

    directory = RunDirectory(path)
    if not path.is_dir() or not (directory.begun or directory.error_file.exists()):
        return run("missing")
    log = tuple(_log(directory.log_file, found))
    if directory.results_file.exists():
        try:
            results = _results(directory.results_file, config, found)
            return run("finished", results=results, log=log)
        except UnusableError as error:
            found.left_out(directory.results_file, error)
            return run("unreadable", log=log, error=f"results.json: {error}")
    if reason := _error(directory, found):
        return run("failed", log=log, error=reason)
    return run("unfinished", log=log)


def _results(file: Path, config: dict[str, Any], found: Findings) -> dict[str, Any]:
    results = _checked(Results, found.json(file)).model_dump()
    for key in _IDENTITY:
        if results["config"][key] != config[key]:
            there, here = (plain(repr(c[key]), 60) for c in (results["config"], config))
            raise UnusableError(f"it belongs to another run: {key} is {there}, planned {here}")
    return results


def _log(file: Path, found: Findings) -> Iterator[dict[str, Any]]:
    """Yields the complete epochs; ignores an incomplete last line of a run in progress."""
    if not file.exists():
        return
    try:
        lines = read_text(file, found.root).splitlines()
    except UnusableError as error:
        found.left_out(file, error)
        return
    faults = []
    for i, line in enumerate(lines, start=1):
        try:
            yield _checked(Epoch, parse(line)).model_dump()
        except UnusableError as error:
            faults.append((i, error))
    if faults and faults[0][0] < len(lines):
        more = f"; {len(faults)} lines are left out" if len(faults) > 1 else ""
        found.left_out(file, f"line {faults[0][0]}: {faults[0][1]}{more}")


def _error(directory: RunDirectory, found: Findings) -> str:
    """Returns the last line of ``error.txt``; ``""`` if there is none: a resumed run deletes it."""
    file = directory.error_file
    if not file.exists():
        return ""
    try:
        lines = read_text(file, found.root).strip().splitlines()
    except UnusableError as error:
        found.left_out(file, error)
        return f"error.txt: {plain(str(error))}"
    return plain(lines[-1].strip()) if lines else "error.txt is empty"
