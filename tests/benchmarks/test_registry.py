"""Benchmarks by name, and custom ones by module and class."""

from __future__ import annotations

import inspect
import re

import pytest

from samo import benchmarks
from tests.toy import Toy


@pytest.mark.parametrize("name", benchmarks.available())
def test_every_benchmark_is_documented_and_complete(name: str) -> None:
    kind = benchmarks.get(name)
    assert kind.__doc__
    assert kind.defaults.epochs > 0
    assert list(kind.defaults.rho_grid) == sorted(kind.defaults.rho_grid)
    assert kind.defaults.rho in kind.defaults.rho_grid
    if "data" in inspect.signature(kind).parameters:
        return  # what it makes of the user's files is seen in its own tests
    made = benchmarks.create(name)
    assert set(made.metrics) == set(made.tasks)
    assert all(made.metrics[task] for task in made.tasks)


def test_a_custom_benchmark_needs_no_registration() -> None:
    made = benchmarks.create("tests.toy:Toy", n=16)
    assert type(made).__name__ == Toy.__name__
    assert len(list(made.batches("train", ["sign"], batch_size=4))) == 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "unknown benchmark 'digit', did you mean 'digits'? Known: digits,"),
        ("Digits_Domains", "did you mean 'digits-domains'?"),
        ("zzz", "unknown benchmark 'zzz'. Known: digits, digits-domains, tabular,"),
        ("no_such_module:Toy", "cannot be imported: No module named 'no_such_module'"),
        ("tests.toy:Nothing", "has no attribute 'Nothing'"),
        ("tests.toy:Net", "must be a class derived from Benchmark"),
        (":Toy", "cannot be imported"),
    ],
)
def test_an_unknown_benchmark_raises_an_error(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        benchmarks.get(name)


def test_an_unknown_option_raises_an_error() -> None:
    with pytest.raises(ValueError, match="of benchmark 'digits', 'pair', did you mean 'pairs'"):
        benchmarks.create("digits", pair=3)
