"""The matrix of task gradients, stored in less than the parameters' precision."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import samo
from tests.problems import TASKS
from tests.tools import Heads, gradients, same

X = torch.linspace(-2, 2, 28).view(7, 4).sin()
PRESETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "erm": (samo.ERM, {}),
    "gsam": (samo.GSAM, {}),
    "lsam": (samo.LSAM, {}),
    "fmtl": (samo.FMTL, {}),
    "samo": (samo.SAMO, {}),
}


def rows(model: Heads, dtype: torch.dtype) -> Tensor:
    """The gradients of the tasks with respect to the trunk, rounded, in float64."""
    found = []
    for task in TASKS:
        loss = model.losses([task], X)[task]
        parts = torch.autograd.grad(loss, list(model.trunk.parameters()))
        found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found).to(dtype).double()


def trunk(model: Heads) -> Tensor:
    """Its ``.grad``, flat, in float64."""
    parts = [p.grad for p in model.trunk.parameters() if p.grad is not None]
    assert all(part.dtype == torch.float32 for part in parts)
    return torch.cat([part.double().flatten() for part in parts])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("aggregator", ["upgrad", "mgda", "pcgrad", "gradvac"])
def test_each_entry_is_rounded_once(aggregator: str, dtype: torch.dtype) -> None:
    """Gramian and combination are those of the rounded rows; own gradients are not rounded."""
    model, twin = Heads(), Heads()
    engine = samo.ERM(model, TASKS, aggregator=aggregator, gradient_dtype=dtype)
    result = engine.backward(partial(model.losses, x=X))
    samo.ERM(twin, TASKS, aggregator=aggregator).backward(partial(twin.losses, x=X))
    rounded = rows(twin, dtype)
    assert result.gramian is not None
    assert result.weights is not None
    torch.testing.assert_close(result.gramian, rounded @ rounded.T, rtol=1e-6, atol=1e-9)
    wanted = result.weights.double() @ rounded
    torch.testing.assert_close(trunk(model), wanted, rtol=1e-5, atol=1e-6)
    mine, its = ({n: g for n, g in gradients(m).items() if "heads" in n} for m in (model, twin))
    same(mine, its)


@pytest.mark.parametrize("aggregator", ["upgrad", "mgda", "config"])
@pytest.mark.parametrize("preset", PRESETS)
def test_the_update_is_near(preset: str, aggregator: str) -> None:
    """Over several micro-batches, with a task that is absent from one of them."""
    make, options = PRESETS[preset]
    seen = []

    def losses(model: Heads, there: list[str], tasks: list[str]) -> dict[str, Tensor]:
        return model.losses([task for task in tasks if task in there], X)

    for dtype in (None, torch.bfloat16):
        model = Heads()
        engine = make(model, TASKS, aggregator=aggregator, gradient_dtype=dtype, **options)
        engine.backward([partial(losses, model, there) for there in (TASKS, TASKS[:2])])
        engine.backward(partial(losses, model, TASKS[1:]))
        seen.append(trunk(model))
    assert 0 < (seen[1] - seen[0]).norm() < 0.03 * seen[0].norm()


@pytest.mark.parametrize("wrong", [torch.int8, "bfloat16", torch.complex64])
def test_other_dtypes_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="gradient_dtype must be a floating-point"):
        samo.ERM(Heads(), TASKS, aggregator="mgda", gradient_dtype=wrong)
