"""The schema of a run's files: what is written is read, and what does not fit is named."""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from samo.records import RunError, read_json, write_json
from samo.records.directory import RunDirectory, read_plan, write_plan
from samo.records.foreign import UnusableError, name, parse, plain
from samo.records.schema import Epoch, Planned, Results, reported, validated
from tests.records.malformed import WRONG
from tests.report import pages
from tests.report.pages import config

NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=80)
NUMBERS = st.floats(-1e100, 1e100)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | NUMBERS | NAMES,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    """Results of a finished run, with names, numbers and optional fields of any kind."""
    tasks = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    metrics = {task: draw(st.lists(NAMES, min_size=1, max_size=2, unique=True)) for task in tasks}

    def scores() -> dict[str, dict[str, float]]:
        return {task: {m: draw(NUMBERS) for m in [*metrics[task], "loss"]} for task in tasks}

    def some(**fields: st.SearchStrategy[Any]) -> dict[str, Any]:
        """A part of the fields."""
        return {name: draw(values) for name, values in fields.items() if draw(st.booleans())}

    def scored(**more: Any) -> dict[str, Any]:
        return {**more, "score": draw(NUMBERS), "validation": scores(), "test": scores()}

    def epoch(number: int) -> dict[str, Any]:
        record = {"epoch": number, "score": draw(NUMBERS), "train": scores()}
        record["validation"] = scores()
        record |= some(lr=NUMBERS, steps=st.dictionaries(NAMES, NUMBERS, max_size=2))
        return record | ({"test": scores()} if draw(st.booleans()) else {})

    fields: dict[str, Any] = {
        "benchmark": draw(NAMES),
        "method": draw(NAMES),
        "sharpness": draw(NAMES),
    }
    fields |= some(rho=st.none() | NUMBERS, seed=st.integers(0, 2**64), tasks=st.just(tasks))
    fields |= {f"own {n}": v for n, v in draw(st.dictionaries(NAMES, JSON, max_size=2)).items()}
    return {
        "config": fields,
        "tasks": tasks,
        "metrics": {
            task: {m: {"higher_is_better": draw(st.booleans()), "unit": draw(NAMES)} for m in names}
            for task, names in metrics.items()
        },
        "last": scored(epoch=2),
        "selected": scored(epoch=draw(st.integers(1, 2))),
        **({"averaged": scored(epochs=[1, 2])} if draw(st.booleans()) else {}),
        "history": [epoch(1), epoch(2)],
        "timing": {"step_ms": 1.5, **some(epoch_s=NUMBERS, peak_memory_mb=st.none() | NUMBERS)},
        "environment": {"samo": draw(NAMES), "processors": 2, "device": None},
    }


@given(runs())
def test_what_is_written_is_read(content: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as out:
        directory = RunDirectory(Path(out))
        assert directory.results() is None
        write_json(directory.results_file, validated(Results, content).plain())
        found = directory.results()
        assert found == content == read_json(directory.results_file)
        assert reported(found) == content.get("averaged", content["selected"])
        run = {"path": "a/b", "baseline": True, "config": content["config"]}
        write_plan(Path(out), [validated(Planned, run)])
        assert [planned.plain() for planned in read_plan(Path(out))] == [run]


def test_names_that_others_wrote_are_fit_for_figures_and_own_ones_are_kept() -> None:
    content = json.loads(json.dumps(pages.results(config())).replace('"left"', '"$x$ y"'))
    assert validated(Results, content).plain() == content
    foreign = validated(Results, parse(json.dumps(content)), foreign=True)
    assert foreign.tasks == list(foreign.metrics) == ["\uff04x\uff04 y", "right"]


@given(runs())
def test_names_that_others_wrote_stay_the_same_everywhere(content: dict[str, Any]) -> None:
    shown = [name(plain(task)) for task in content["tasks"]]
    assume(len(set(shown)) == len(shown))
    for metrics in content["metrics"].values():
        assume(len({name(plain(metric)) for metric in metrics}) == len(metrics))
    found = validated(Results, parse(json.dumps(content)), foreign=True)
    assert found.tasks == list(found.metrics) == shown
    assert all(list(epoch.train) == shown for epoch in found.history)


def without(*path: Any) -> tuple[tuple[Any, ...], Any]:
    return path, ...


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("config"), "config: Field required"),
        (without("config", "method"), "config.method: Field required"),
        (
            (("config", "seed"), -1),
            "config.seed: Input should be greater than or equal to 0",
        ),
        ((("config", "rho"), "0.1"), "config.rho: Input should be a valid number"),
        ((("config", "tasks"), "left"), "config.tasks: Input should be a valid list"),
        ((("tasks",), []), "tasks: List should have at least 1 item after validation, not 0"),
        ((("tasks",), ["left", "up"]), "task 'up' has no metrics"),
        ((("metrics", "left"), {}), "task 'left' has no metrics"),
        (
            (("metrics", "left", "accuracy", "higher_is_better"), 1),
            "metrics.left.accuracy.higher_is_better: Input should be a valid boolean",
        ),
        (without("metrics", "left", "accuracy", "unit"), "metrics.left.accuracy.unit: Field requ"),
        (without("selected"), "selected: Field required"),
        ((("selected", "score"), None), "selected.score: Input should be a valid number"),
        ((("selected", "score"), float("nan")), "selected.score: Input should be a finite number"),
        ((("selected", "score"), 1e300), "selected.score: Input should be less than or equal to 1"),
        (without("selected", "test", "right"), "selected: 'accuracy' of task 'right' is missing"),
        (
            without("selected", "validation", "left", "accuracy"),
            "selected: 'accuracy' of task 'left' is missing",
        ),
        ((("history",), []), "history: List should have at least 1 item after validation, not 0"),
        (
            without("history", 1, "train", "left", "accuracy"),
            "epoch 2: 'accuracy' of task 'left' is missing",
        ),
        ((("history", 0, "epoch"), 1.5), "history.0.epoch: Input should be a valid integer"),
        (
            (("history", 2, "steps", "conflicts"), "many"),
            "history.2.steps.conflicts: Input should be a valid number",
        ),
        (without("timing", "step_ms"), "timing.step_ms: Field required"),
        (
            (("timing", "peak_memory_mb"), True),
            "timing.peak_memory_mb: Input should be a valid number",
        ),
        (
            (("environment", "samo"), [1]),
            "environment.samo.str: Input should be a valid string",
        ),
    ],
)
def test_a_missing_or_malformed_field_is_named(
    tmp_path: Path, change: tuple[tuple[Any, ...], Any], message: str
) -> None:
    content = copy.deepcopy(pages.results(config()))
    (*path, last), value = change
    tree: Any = content
    for key in path:
        tree = tree[key]
    if value is ...:
        del tree[last]
    else:
        tree[last] = value
    with pytest.raises(UnusableError) as error:
        validated(Results, parse(json.dumps(content)), foreign=True)
    assert str(error.value).startswith(message)
    pages.write(tmp_path / "results.json", content)
    with pytest.raises(RunError) as error_:
        RunDirectory(tmp_path).results()
    assert str(error_.value).startswith(f"{tmp_path / 'results.json'} cannot be read: {message}")


def test_unknown_fields_are_kept_in_a_configuration_and_ignored_elsewhere() -> None:
    content = pages.results({**config(), "own": {"a": [1]}})
    more = copy.deepcopy(content)
    more["more"] = more["history"][0]["more"] = more["timing"]["more"] = 1
    assert validated(Results, more).plain() == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "compare.json cannot be read: "),
        ([], "compare.json cannot be read: it is not a JSON object."),
        (
            {},
            "compare.json cannot be read: it is not a JSON object with lists of runs.",
        ),
        ({"runs": [7]}, "Input should be a valid dictionary"),
        (
            {"runs": [{"path": "x", "baseline": 1, "config": config()}]},
            "baseline: Input should be a valid b",
        ),
        ({"runs": [{"baseline": True, "config": config()}]}, "path: Field required"),
    ],
)
def test_a_plan_that_cannot_be_read(tmp_path: Path, content: Any, message: str) -> None:
    pages.write(tmp_path / "compare.json", content)
    with pytest.raises(RunError) as error:
        read_plan(tmp_path)
    assert message in str(error.value)


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where there is something that can be exchanged."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    found = []
    for key, value in items:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += _places(value, (*path, key))
    return found


PLACES = _places(pages.results(config()))


@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(WRONG)), min_size=1, max_size=3))
def test_whatever_results_hold_they_are_read_or_refused(
    changes: list[tuple[tuple[Any, ...], Any]],
) -> None:
    made = copy.deepcopy(pages.results(config()))
    for (*path, last), value in changes:
        tree = made
        try:
            for key in path:
                tree = tree[key]
            tree[last] = value
        except (LookupError, TypeError):
            continue  # an earlier change has taken the place away
    history: list[Epoch] = []
    refusal = ""
    try:
        history = validated(Results, parse(json.dumps(made)), foreign=True).history
    except UnusableError as error:
        refusal = str(error)
    assert bool(history) != bool(refusal)
    assert refusal.isprintable()
    for record in history:
        for scores in (record.train, record.validation):
            assert all(abs(v) <= 1e100 for task in scores.values() for v in task.values())


@given(st.text(alphabet=st.characters()))
def test_text_is_printable_and_can_be_written(text: str) -> None:
    for made in (plain(text), name(text)):
        assert made.isprintable()
        made.encode()
    if text.isprintable() and len(text) <= 60 and "$" not in text:
        assert plain(text) == name(text) == text
