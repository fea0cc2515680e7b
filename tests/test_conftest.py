"""The fixtures that police the other tests are themselves held to what they promise."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")

LEAKS = {
    "default dtype": "torch.set_default_dtype(torch.float64)",
    "default device": "torch.set_default_device('meta')",
    "grad mode": "torch.set_grad_enabled(False)",
    "number of threads": "torch.set_num_threads(torch.get_num_threads() + 1)",
    "deterministic algorithms": "torch.use_deterministic_algorithms(True)",
    "cudnn.deterministic": "torch.backends.cudnn.deterministic = True",
    "cudnn.benchmark": "torch.backends.cudnn.benchmark = True",
}


DRAWS = """
import random, numpy, torch
def draw(): print('drew', torch.rand(1).item(), numpy.random.rand(), random.random())
def test_one(): draw()
def test_two(): draw()
"""
MODES = f"""
import torch
from torch.overrides import _get_current_function_mode_stack as modes
def test_leak(): {LEAKS["default device"]}
def test_next(): assert not modes()
"""


@pytest.fixture
def inner(pytester: pytest.Pytester) -> pytest.Pytester:
    # The plugin is loaded already, and an inner conftest may not name it.
    source = CONFTEST.read_text().replace('pytest_plugins = ["pytester"]', "")
    pytester.makeconftest(source)
    return pytester


# In the order of the files, as what sees a leak comes after it.
OPTIONS = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:randomly"]


def test_leaks_fail_their_own_tests_and_no_other(inner: pytest.Pytester) -> None:
    """And no mode is left behind where a default device was put back.

    In a process of its own: an inner run in this one would throw out the parts of torch that it
    was the first to import, which cannot be imported twice.
    """
    leaks = "".join(
        f"def test_leak_{i}(): {leak}\ndef test_next_{i}(): pass\n"
        for i, leak in enumerate(LEAKS.values())
    )
    inner.makepyfile(test_leaks=f"import torch\n{leaks}", test_modes=MODES)
    result = inner.runpytest_subprocess(*OPTIONS)
    result.assert_outcomes(passed=2 * len(LEAKS) + 2, errors=len(LEAKS) + 1)
    result.stdout.fnmatch_lines([f"*the test left changed: {name} (was *" for name in LEAKS])


def test_a_test_draws_the_same_numbers_alone_and_in_company(inner: pytest.Pytester) -> None:
    inner.makepyfile(DRAWS)
    both = drawn(inner.runpytest_inprocess(*OPTIONS))
    alone = drawn(inner.runpytest_inprocess(*OPTIONS, "-k", "two"))
    assert len(set(both)) == 2
    assert alone == both[1:]


def drawn(result: pytest.RunResult) -> list[str]:
    return [line[line.index("drew") :] for line in result.outlines if "drew" in line]
