"""The fixtures that police the other tests are themselves held to what they promise."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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


@pytest.fixture
def run(pytester: pytest.Pytester) -> Callable[..., pytest.RunResult]:
    """Writes the test files, and runs pytest on one or all of them, in a process of its own.

    An inner run in this process would throw out the parts of torch that it was the first to
    import, which cannot be imported twice. A process takes seconds to start, so the tests share
    them.
    """
    # The plugin is loaded already, and an inner conftest may not name it.
    source = CONFTEST.read_text().replace('pytest_plugins = ["pytester"]', "")
    pytester.makeconftest(source)
    leaks = (
        f"def test_leak_{i}(): {leak}\ndef test_next_{i}(): pass\n"
        for i, leak in enumerate(LEAKS.values())
    )
    pytester.makepyfile(
        test_draws=DRAWS,
        test_leaks="import torch\n" + "".join(leaks),
        test_modes="import torch\n"
        "from torch.overrides import _get_current_function_mode_stack as modes\n"
        f"def test_leak(): {LEAKS['default device']}\n"
        "def test_next(): assert not modes()\n",
    )
    # In the order of the files, as the tests beside a leak are to come after it.
    options = ["-q", "-s", "-p", "no:cacheprovider", "-p", "no:randomly"]
    return partial(pytester.runpytest_subprocess, *options)


def drawn(result: pytest.RunResult) -> list[str]:
    return [line[line.index("drew") :] for line in result.outlines if "drew" in line]


def test_leaks_fail_their_own_tests_alone_and_draws_depend_on_the_test_alone(
    run: Callable[..., pytest.RunResult],
) -> None:
    """No next test sees a leak, or a mode that putting it back left; draws are each test's own."""
    everything = run()
    everything.assert_outcomes(passed=2 + 2 * len(LEAKS) + 2, errors=len(LEAKS) + 1)
    everything.stdout.fnmatch_lines([f"*the test left changed: {name} (was *" for name in LEAKS])
    alone = run("test_draws.py", "-k", "two")
    alone.assert_outcomes(passed=1, deselected=1)
    assert len(set(drawn(everything))) == 2
    assert drawn(alone) == drawn(everything)[1:]
