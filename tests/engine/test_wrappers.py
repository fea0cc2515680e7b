"""Models that the engine cannot use as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import samo

ENGINES: list[tuple[str, dict[str, Any]]] = [
    *((preset, {}) for preset in ("ERM", "GSAM", "LSAM", "FMTL", "SAMO", "MSAM")),
    *((preset, {"level": "representation"}) for preset in ("ERM", "GSAM", "MSAM")),
]


@pytest.mark.parametrize("kind", [nn.LazyLinear, nn.LazyBatchNorm1d])
@pytest.mark.parametrize(("preset", "options"), ENGINES)
def test_lazy_modules_need_a_forward_pass(
    preset: str, options: dict[str, Any], kind: type[nn.Module]
) -> None:
    trunk = nn.Sequential(nn.Linear(3, 4), kind(4) if kind is nn.LazyLinear else kind())
    model = nn.ModuleDict({"trunk": trunk, "a": nn.Linear(4, 2), "b": nn.Linear(4, 2)})
    x = torch.randn(5, 3)

    def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
        h = trunk(x).tanh()
        return {task: model[task](h).square().mean() for task in tasks}

    engine = getattr(samo, preset)(model, ["a", "b"], aggregator="mgda", **options)
    with pytest.raises(ValueError, match=r"'trunk\.1\.\w+' is uninitialised.* one forward pass"):
        engine.backward(losses)
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        losses(["a"])
    engine.backward(losses)
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("where", ["", "trunk"])
def test_data_parallel_over_several_devices(where: str) -> None:
    model: Any = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("trunk", "a", "b")})
    wrapper = nn.DataParallel(model[where] if where else model)
    wrapper.device_ids = [0, 1]
    if where:
        model[where] = wrapper
    with pytest.raises(ValueError, match=r"over the devices .*DistributedDataParallel"):
        samo.ERM(model if where else wrapper, ["a", "b"], aggregator="mgda")
