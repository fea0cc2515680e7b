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


@pytest.fixture
def run(pytester: pytest.Pytester) -> pytest.Pytester:
    # The plugin is loaded already, and an inner conftest may not name it.
    source = CONFTEST.read_text().replace('pytest_plugins = ["pytester"]', "")
    pytester.makeconftest(source)
    return pytester


# In processes of their own: an inner run in this one would throw out the parts of torch that it
# was the first to import, which cannot be imported twice.


def test_a_leak_fails_its_own_test_and_no_other(run: pytest.Pytester) -> None:
    cases = (
        f"def test_leak_{i}(): {leak}\ndef test_next_{i}(): pass\n"
        for i, leak in enumerate(LEAKS.values())
    )
    run.makepyfile("import torch\n" + "".join(cases))
    result = run.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2 * len(LEAKS), errors=len(LEAKS))
    result.stdout.fnmatch_lines([f"*the test left changed: {name} (was *" for name in LEAKS])


def test_a_default_device_is_put_back_without_a_mode(run: pytest.Pytester) -> None:
    run.makepyfile(
        "import torch\nfrom torch.overrides import _get_current_function_mode_stack as modes\n"
        f"def test_leak(): {LEAKS['default device']}\n"
        "def test_next(): assert not modes()\n"
    )
    run.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=2, errors=1)


def test_a_test_draws_the_same_numbers_alone_and_in_company(run: pytest.Pytester) -> None:
    run.makepyfile(
        "import random, numpy, torch\n"
        "def draw(): print('drew', torch.rand(1).item(), numpy.random.rand(), random.random())\n"
        "def test_one(): draw()\n"
        "def test_two(): draw()\n"
    )
    both = run.runpytest_subprocess("-s", "-q").outlines
    alone = run.runpytest_subprocess("-s", "-q", "-k", "two").outlines
    drawn = [line[line.index("drew") :] for line in both if "drew" in line]
    assert len(set(drawn)) == 2
    assert [line[line.index("drew") :] for line in alone if "drew" in line] == drawn[1:]
