"""What holds for every test: a seed of its own, and no change to torch that outlives it."""

from __future__ import annotations

import os
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import hypothesis
import numpy as np
import pytest
import torch

pytest_plugins = ["pytester"]

# The tests' tensors are small, so threads cost more than they give. Nothing may depend on their
# number: OMP_NUM_THREADS varies it.
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

if not torch.accelerator.is_available():
    # Where an accelerator may yet be initialised, `torch.manual_seed` formats a traceback for each
    # kind of them: milliseconds, thousands of times.
    torch.manual_seed = torch.default_generator.manual_seed

# No random examples, and no failure because a machine is slow.
hypothesis.settings.register_profile("samo", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("samo")


class _Setting(NamedTuple):
    """A global setting of torch: how to read it and how to put it back."""

    read: Callable[[], Any]
    write: Callable[[Any], Any]


def _attribute(owner: object, name: str) -> _Setting:
    return _Setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value))


def _set_default_device(device: torch.device) -> None:
    # To set "cpu" would leave a mode behind that every later call of torch goes through.
    torch.set_default_device(None if device.type == "cpu" else device)


_SETTINGS = {
    "default dtype": _Setting(torch.get_default_dtype, torch.set_default_dtype),
    "default device": _Setting(torch.get_default_device, _set_default_device),
    "grad mode": _Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    "number of threads": _Setting(torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": _Setting(
        torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode
    ),
    "cudnn.deterministic": _attribute(torch.backends.cudnn, "deterministic"),
    "cudnn.benchmark": _attribute(torch.backends.cudnn, "benchmark"),
}


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Fail a test that leaves a global setting of torch changed, and put the setting back."""
    before = {name: setting.read() for name, setting in _SETTINGS.items()}
    yield
    leaks = []
    for name, setting in _SETTINGS.items():
        after = setting.read()
        if after != before[name]:
            setting.write(before[name])
            leaks.append(f"{name} (was {before[name]}, is {after})")
    if leaks:
        pytest.fail(f"the test left changed: {', '.join(leaks)}")


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    """Seed the global generators from the test's own name: the same alone and within the suite."""
    seed = zlib.crc32(request.node.nodeid.encode())
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries that draw from numpy draw from the old generator
    random.seed(seed)


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-randomly shuffle the tests, and leave the generators to `_seed`."""
    if hasattr(config.option, "randomly_reset_seed"):
        config.option.randomly_reset_seed = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
