"""Parameters and modules are known by name, or by the object while it is held: never by address."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import samo
from tests.tools import close, gradients, same

torch.manual_seed(0)
X = torch.randn(9, 4, dtype=torch.float64)
Y = torch.randn(9, 3, dtype=torch.float64)
TASKS = ["a", "b"]

PRESETS: dict[str, Any] = {
    "ERM": samo.ERM,
    "MSAM": partial(samo.MSAM, rho=0.3),
    "GSAM": partial(samo.GSAM, rho=0.3),
    "LSAM": partial(samo.LSAM, rho=0.3),
    "FMTL": partial(samo.FMTL, rho=0.3),
    "SAMO": partial(samo.SAMO, rho=0.3),
    "previous": partial(samo.SAMO, rho=0.3, local=samo.PreviousGradient()),
    "representation": partial(samo.GSAM, rho=0.3, level="representation"),
}


class Model(nn.Module):
    """A trunk and two heads, with an engine that is part of it, as in a LightningModule."""

    def __init__(self, preset: str | None = None, *, declared: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.trunk = nn.Linear(4, 5)
        self.a = nn.Linear(5, 3)
        self.b = nn.Sequential(nn.Linear(5, 3))
        self.double()
        if preset is not None:
            self.engine = engine_of(self, preset, declared=declared)

    def losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        h = torch.tanh(self.trunk(X))
        outputs = {"a": self.a, "b": self.b}
        return {task: (outputs[task](h)[:, :3] - Y).square().mean() for task in tasks}

    def step(self) -> dict[str, Any]:
        self.zero_grad()
        self.engine.backward(self.losses)
        return gradients(self)


def engine_of(model: Model, preset: str, *, declared: bool) -> samo.Engine:
    own = {"own": {"a": model.a, "b": model.b}} if declared else {}
    engine: samo.Engine = PRESETS[preset](model, TASKS, aggregator="upgrad", **own)
    return engine


def saved(model: Model) -> Model:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    found: Model = torch.load(file, weights_only=False)
    return found


def resumed(model: Model) -> Model:
    other = Model()
    other.load_state_dict(model.state_dict())
    declared = bool(model.engine._setting.partition._claims._paths)
    other.engine = engine_of(other, preset_of(model), declared=declared)
    other.engine.load_state_dict(model.engine.state_dict())
    return other


def preset_of(model: Model) -> str:
    found: str = model.preset  # type: ignore[assignment]
    return found


COPIES: dict[str, Callable[[Model], Model]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": saved,
    "state_dict": resumed,
}


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_copy_goes_on_as_the_original(preset: str, steps: int, declared: bool, how: str) -> None:
    """The copy's gradients are the original's, bit for bit, and neither touches the other."""
    model = Model(preset, declared=declared)
    model.preset = preset  # type: ignore[assignment]
    for _ in range(steps):
        model.step()
    model.zero_grad()
    other = COPIES[how](model)
    assert other.engine.model is other
    gc.collect()
    got = other.step()
    assert all(grad is None for grad in gradients(model).values())
    same(got, model.step())
    assert other.engine.partition == model.engine.partition
    same(other.step(), model.step())


def assign(model: Model) -> None:
    state = {name: value + 1 for name, value in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def new_head(model: Model) -> None:
    torch.manual_seed(5)
    model.a = nn.Linear(5, 7).double()


def new_trunk(model: Model) -> None:
    torch.manual_seed(6)
    model.trunk = nn.Linear(4, 5).double()


def deeper_head(model: Model) -> None:
    torch.manual_seed(7)
    model.b.append(nn.Linear(3, 3).double())


def normed_head(model: Model) -> None:
    parametrizations.weight_norm(model.a)


def swapped_heads(model: Model) -> None:
    model.a, model.b = nn.Sequential(model.b[0]), model.a  # type: ignore[assignment]


def wrapped_head(model: Model) -> None:
    model.a = nn.Sequential(nn.Tanh(), model.a)  # type: ignore[assignment]


def one_parameter(model: Model) -> None:
    model.trunk.bias = nn.Parameter(torch.ones(5, dtype=torch.float64))


CHANGES = [
    assign,
    new_head,
    new_trunk,
    deeper_head,
    normed_head,
    swapped_heads,
    wrapped_head,
    one_parameter,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("declared", [False, True])
@pytest.mark.parametrize("steps", [0, 1])
@pytest.mark.parametrize("preset", ["ERM", "GSAM", "LSAM", "FMTL", "representation"])
def test_replaced_parameters_give_what_a_fresh_engine_gives(
    preset: str, steps: int, declared: bool, change: Callable[[Model], None]
) -> None:
    model, other = Model(preset, declared=declared), Model()
    for _ in range(steps):
        model.step()
    change(model)
    change(other)
    gc.collect()
    other.engine = engine_of(other, preset, declared=declared)
    same(model.step(), other.step())
    assert model.engine.partition == other.engine.partition


def test_a_declared_part_that_has_left_the_model_is_named() -> None:
    model = Model()
    engine = samo.GSAM(model, TASKS, aggregator="ls", own={"a": model.a, "b": model.b[0]})
    model.b = nn.Linear(5, 3).double()  # type: ignore[assignment]
    with pytest.raises(
        samo.PartitionError, match=r"own\['b'\] contains 'b.0', which the model has"
    ):
        engine.backward(model.losses)
    assert all(grad is None for grad in gradients(model).values())


def test_a_parameter_does_not_inherit_from_one_that_is_gone() -> None:
    """Python reuses the addresses of freed objects."""
    for _ in range(20):
        model = Model()
        model.adapters = nn.ModuleDict({"a": nn.Linear(3, 3).double()})

        def losses(tasks: Sequence[str], model: Model = model) -> dict[str, Tensor]:
            h = torch.tanh(model.trunk(X))
            found = {"a": model.a(h), "b": model.b(h)}
            adapters: Any = model.adapters
            return {
                t: (adapters[t](found[t]) if t in adapters else found[t]).square().mean()
                for t in tasks
            }

        engine = samo.GSAM(model, TASKS, aggregator="upgrad", rho=0.3)
        engine.backward(losses)
        del model.adapters["a"]
        engine.backward(losses)
        gc.collect()
        model.adapters["b"] = nn.Linear(3, 3).double()
        model.zero_grad()
        engine.backward(losses)
        got = gradients(model)
        model.zero_grad()
        samo.GSAM(model, TASKS, aggregator="upgrad", rho=0.3).backward(losses)
        same(got, gradients(model))


# Trainable tensors outside of the model


def outside(kind: str) -> tuple[Model, Callable[[Sequence[str]], dict[str, Tensor]], list[Tensor]]:
    """A model, and losses that depend on tensors which are not in it."""
    model = Model()
    torch.manual_seed(3)
    logs: Tensor = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    if kind != "tensor":
        logs = nn.Parameter(logs.detach())
    layer = nn.Linear(5, 2).double() if kind == "module" else None

    def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
        found = model.losses(tasks)
        found = {t: logs[i].exp() * found[t] + logs[i] for i, t in enumerate(TASKS) if t in tasks}
        if layer is not None and "b" in tasks:
            found["b"] = found["b"] + layer(torch.tanh(model.trunk(X))).logsumexp(1).mean()
        return found

    return model, losses, [logs, *([] if layer is None else layer.parameters())]


@pytest.mark.parametrize("kind", ["tensor", "parameter", "module"])
@pytest.mark.parametrize("preset", ["ERM", "LSAM", "representation"])
def test_a_trainable_tensor_outside_of_the_model_is_named_once(preset: str, kind: str) -> None:
    model, losses, strangers = outside(kind)
    engine = engine_of(model, preset, declared=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            engine.backward(losses)
    (warning,) = caught
    for stranger in strangers:
        assert f"{type(stranger).__name__} {list(stranger.shape)}" in str(warning.message)
    assert "declare them, as torch.nn.Parameter, in own= or shared=" in str(warning.message)
    assert all(stranger.grad is None for stranger in strangers)


@pytest.mark.parametrize("preset", ["ERM", "LSAM", "SAMO", "representation"])
def test_declared_it_is_trained_as_if_it_were_in_the_model(preset: str) -> None:
    model, losses, (logs, *layer) = outside("module")
    shared: dict[str, Any] = {"shared": [model.trunk, logs], "own": {"b": [model.b, *layer]}}
    engine = PRESETS[preset](model, TASKS, aggregator="upgrad", seed=2, **shared)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.backward(losses)
    got = [logs.grad, *(p.grad for p in layer), *gradients(model).values()]
    other, losses, (logs, *layer) = outside("module")
    parts: Any = {"logs": logs} | {f"layer{i}": p for i, p in enumerate(layer)}
    other.outside = nn.ParameterDict(parts)
    shared = {"shared": [other.trunk, logs], "own": {"b": [other.b, *layer]}}
    engine = PRESETS[preset](other, TASKS, aggregator="upgrad", seed=2, **shared)
    engine.backward(losses)
    wanted = [logs.grad, *(p.grad for p in layer), *(p.grad for p in other.parameters())]
    close(dict(enumerate(got)), dict(enumerate(wanted[: len(got)])))
    assert None not in [g for g in got if g is None]


def test_a_declared_parameter_that_nothing_depends_on_is_refused() -> None:
    """As it happens where the model has been copied, and the copy is trained."""
    model, other = Model(), Model()
    for declared in ({"shared": [model.trunk, other.a]}, {"own": {"b": [other.b, other.a]}}):
        engine = samo.ERM(model, TASKS, aggregator="ls", **declared)
        with pytest.raises(samo.PartitionError, match="that is not in the model, and no loss"):
            engine.backward(model.losses)


# What is trainable changes


@pytest.mark.parametrize("declared", ["own", "shared", "found"])
@pytest.mark.parametrize("preset", PRESETS)
def test_heads_train_on_a_frozen_trunk_and_the_trunk_thaws(preset: str, declared: str) -> None:
    """With the trunk frozen, each head gets the gradient of its own loss (at φ_i + η_i)."""
    model = Model()
    model.trunk.requires_grad_(False)
    heads = {"a": model.a, "b": model.b}
    options: Any = {"own": {"own": heads}, "shared": {"shared": model.trunk}, "found": {}}[declared]
    model.engine = PRESETS[preset](model, TASKS, aggregator="upgrad", **options)
    got = model.step()
    assert got["trunk.weight"] is None
    if preset == "ERM":
        model.zero_grad()
        sum(model.losses(TASKS).values()).backward()  # type: ignore[union-attr]
        close(got, gradients(model))
    else:
        assert all((got[n] is None) == n.startswith("trunk") for n in got)
    model.trunk.requires_grad_(True)
    thawed = model.step()
    assert set(model.engine.partition.shared) == {"trunk.weight", "trunk.bias"}
    if preset not in {"MSAM", "SAMO", "previous"}:  # which draw, or remember
        other = Model(preset)
        same(thawed, other.step())


def only(model: Model, task: str, _: Sequence[str]) -> dict[str, Tensor]:
    return model.losses([task])


@pytest.mark.parametrize("preset", PRESETS)
def test_the_first_batch_of_one_task_alone_needs_a_declaration(preset: str) -> None:
    """Which parameters the other task shares is then unknown, and the gradient depends on it."""
    model = Model(preset)
    with pytest.raises(samo.PartitionError, match=r"before a loss of \['b'\].*own="):
        model.engine.backward(partial(only, model, "a"))
    assert all(grad is None for grad in gradients(model).values())
    if preset in {"MSAM", "SAMO", "previous"}:  # which draw, or remember
        return
    model.step()
    model.zero_grad()
    model.engine.backward(partial(only, model, "a"))
    other = Model(preset, declared=True)
    other.engine.backward(partial(only, other, "a"))
    same(gradients(model), gradients(other))


def test_one_task_a_batch_is_as_with_all_tasks_seen_before() -> None:
    for preset in ("ERM", "GSAM", "LSAM"):
        found = []
        for first in ((), ("b",), ("a", "b")):
            model = Model(preset, declared=True)
            for task in first:
                model.engine.backward(partial(only, model, task))
            model.zero_grad()
            model.engine.backward(partial(only, model, "a"))
            found.append(gradients(model))
        same(found[0], found[1])
        same(found[0], found[2])
