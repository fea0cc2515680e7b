"""An analysis leaves no trace, whatever state and randomness the model has, even after errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from samo import SPSA, ExactGradient, Perturbation
from samo.analysis import estimator_quality, gradient_cosines, hessian_spectrum, sharpness
from tests.problems import TASKS, X, losses, problem
from tests.snapshots import Expected, identities
from tests.tools import in_pairs

LOCAL = Perturbation(0.1, alpha=0.0, local=ExactGradient())

ANALYSES: dict[str, Callable[..., Any]] = {
    "spectrum": lambda *data: hessian_spectrum(*data, probes=2),
    "cosines": gradient_cosines,
    "perturbed cosines": lambda *data: gradient_cosines(*data, perturbation=Perturbation(0.1)),
    "sharpness": partial(sharpness, perturbation=LOCAL),
    "estimators": partial(estimator_quality, estimators={"spsa": SPSA()}),
}


class Draws:
    """Batches that draw from the global generator, as a shuffling loader does."""

    def __iter__(self) -> Any:
        for _ in range(2):
            torch.rand(3)
            yield X


NAMES = ["batchnorm", "running", "dropout_heads", "frozen"]
# The mode, and the call that fails.
HOW = [(True, None), (True, 3), (False, None), (False, 3)]


@pytest.mark.parametrize(("analysis", "name", "how"), in_pairs(ANALYSES, NAMES, HOW))
def test_an_analysis_leaves_no_trace(
    analysis: str, name: str, how: tuple[bool, int | None]
) -> None:
    """Every analysis with every model and in every way, and every model in every way."""
    training, fails_at = how
    model = problem(name).model.train(training)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    expected, before = Expected(model), identities(model)
    calls = 0

    def evaluate(_batch: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise ZeroDivisionError
        torch.rand(1)
        return losses(model, tasks)

    def analyse(model: nn.Module) -> None:
        ANALYSES[analysis](model, evaluate, Draws(), TASKS)

    if fails_at is None:
        analyse(model)
    else:
        with pytest.raises(ZeroDivisionError):
            analyse(model)
    expected.check(model)
    assert identities(model) == before
