"""What a representation needs: where there is none, how it is evaluated, what it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import samo
from tests.engine.cuts import TASKS, Attention, Direct, Heads, Named, X, model
from tests.tools import close, gradients

Losses = Callable[[Sequence[str]], dict[str, Tensor]]


def step(net: nn.Module, losses: Losses, method: str = "upgrad", **options: Any) -> Any:
    """One step at the representation."""
    preset = samo.GSAM if "rho" in options else samo.ERM
    engine = preset(net, TASKS, aggregator=method, level="representation", **options)
    return engine.backward(losses)


def declared(net: Any) -> dict[str, Any]:
    """The partition, where the graph does not show it."""
    return {"shared": net.trunk, "own": {task: net.heads[task] for task in TASKS}}


def stacked(net: Named) -> Losses:
    """All losses, taken from one tensor."""

    def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
        every = torch.stack(list(net.losses(TASKS).values()))
        return {task: every[TASKS.index(task)] for task in tasks}

    return losses


def by_input(net: Named) -> Losses:
    """Each task with inputs of its own."""
    assert isinstance(net, Heads)
    return lambda tasks: {t: net.loss(t, net.trunk(X + TASKS.index(t))) for t in tasks}


def compiled(net: Named) -> Losses:
    """One compiled function for everything."""
    whole = torch.compile(lambda: net.losses(TASKS), backend="aot_eager", fullgraph=True)
    return lambda tasks: {task: loss for task, loss in whole().items() if task in tasks}


@pytest.mark.parametrize("rho", [0.0, 0.1])
@pytest.mark.parametrize("closure", [stacked, by_input, compiled])
def test_no_representation(closure: Callable[[Named], Losses], rho: float) -> None:
    """The step is the one at the parameters, and says so."""
    found = []
    for level in ("parameter", "representation"):
        net: Any = model("plain")
        parts = {} if closure is stacked else declared(net)
        engine = samo.GSAM(net, TASKS, aggregator="upgrad", rho=rho, level=level, **parts)
        result = engine.backward(closure(net))
        assert result.level == "parameter"
        found.append({"gramian": result.gramian, **gradients(net)})
    close(found[0], found[1])


def test_nothing_to_compare() -> None:
    """A method whose weights are known first compares nothing."""
    net = model("plain")
    assert step(net, net.losses, "ls").level is None


@pytest.mark.parametrize(
    "backend",
    ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)],
)
def test_compiled_trunk(backend: str) -> None:
    """A compiled trunk is one node, whose outputs are the representation."""
    found = []
    for how in (None, backend):
        net: Any = model("plain")
        if how is not None:
            net.trunk.compile(backend=how)
        result = step(net, net.losses, rho=0.1)
        assert result.level == "representation"
        found.append({"gramian": result.gramian, **gradients(net)})
    close(found[0], found[1])


AT: dict[str, Any] = {"level": "representation"}
ENGINES: list[tuple[str, dict[str, Any]]] = [
    *((preset, {}) for preset in ("ERM", "GSAM", "LSAM", "FMTL", "SAMO", "MSAM")),
    *((preset, AT) for preset in ("ERM", "GSAM", "MSAM")),
    ("SAMO", {**AT, "rho": 0.0, "rho_own": 0.1}),
]


@pytest.mark.parametrize("where", ["trunk", "block", "head"])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("preset", "options"), ENGINES)
def test_reentrant_checkpoints(
    preset: str, options: dict[str, Any], known: bool, where: str
) -> None:
    """They hide the parameters from the graph: these would get no gradient, without a word."""
    net: Any = model("plain")

    def hidden(module: nn.Module, x: Tensor) -> Tensor:
        inputs = x if x.requires_grad else x.clone().requires_grad_()
        found: Tensor = checkpoint(module, inputs, use_reentrant=True)
        return found

    def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
        if where == "trunk":
            h = hidden(net.trunk, X)
        elif where == "block":
            h = hidden(nn.Sequential(*net.trunk[2:]), net.trunk[:2](X))
        else:
            h = net.trunk(X)
            return {t: net.loss(t, hidden(nn.Tanh(), h) if t == "a" else h) for t in tasks}
        return {task: net.loss(task, h) for task in tasks}

    parts = declared(net) if known else {}
    engine = getattr(samo, preset)(net, TASKS, aggregator="upgrad", **options, **parts)
    with pytest.raises(samo.PartitionError, match="use_reentrant=False"):
        engine.backward(losses)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("method", ["ls", "mgda", "upgrad"])
@pytest.mark.parametrize(("preset", "options"), ENGINES[-4:])
def test_a_frozen_trunk(preset: str, options: dict[str, Any], method: str) -> None:
    """The heads are trained as at the parameters; once thawed, the trunk is, as ever."""
    found = []
    for level, thaw in [("parameter", False), ("representation", False), ("representation", True)]:
        net: Any = model("plain")
        net.trunk.requires_grad_(False)
        engine = getattr(samo, preset)(
            net, TASKS, aggregator=method, **{**options, "level": level}, **declared(net)
        )
        if preset != "MSAM" or not thaw:
            assert engine.backward(net.losses).level is None
        found.append(gradients(net))
        if thaw:
            net.zero_grad()
            net.trunk.requires_grad_()
            result = engine.backward(net.losses)
            fresh: Any = model("plain")
            again = getattr(samo, preset)(
                fresh, TASKS, aggregator=method, **options, **declared(fresh)
            ).backward(fresh.losses)
            assert result.level == again.level == (None if method == "ls" else "representation")
            close(gradients(net), gradients(fresh))
    close(found[0], found[1])
    assert {name for name, g in found[1].items() if g is not None} == {
        f"heads.{task}.{part}" for task in TASKS for part in ("weight", "bias")
    }


class Table(Heads):
    """Features from an embedding, whose gradient is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(10, 4, sparse=True)

    def features(self) -> Tensor:
        return self.table(torch.arange(6)) * 2


class Phases(Heads):
    """Features from a complex parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = nn.Parameter(torch.randn(6, 4, dtype=torch.complex64))

    def features(self) -> Tensor:
        return (self.phase * (1 + 2j)).real.double()


@pytest.mark.parametrize(
    ("kind", "message"),
    [(Table, "'table.weight' is sparse"), (Phases, "'phase' is complex")],
)
def test_gradients_that_are_not_dense_and_real(kind: type[Heads], message: str) -> None:
    net = kind()
    for part in (net.trunk, net.heads):
        part.double()
    if kind is Table:
        net.table.double()
    with pytest.raises(ValueError, match=message):
        step(net, net.losses)
    assert all(p.grad is None for p in net.parameters())


@pytest.mark.parametrize("scale", [None, 2.0**7, 2.0**40])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype: torch.dtype, scale: float | None) -> None:
    """Low precision changes the gradients by its rounding; a scale that overflows is reported."""
    found = []
    for around in (nullcontext(), torch.autocast("cpu", dtype)):
        net = model("plain").float()
        x = X.float()
        assert isinstance(net, Heads)

        def losses(tasks: Sequence[str], net: Heads = net, x: Tensor = x) -> dict[str, Tensor]:
            h = net.trunk(x)
            return {t: (net.heads[t](h).float().squeeze(-1) - 1).square().mean() for t in tasks}

        scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale)
        engine = samo.ERM(net, TASKS, aggregator="mgda", level="representation")
        with around:
            result = engine.backward(losses, grad_scaler=scaler)
        if scale == 2.0**40 and dtype == torch.float16 and not isinstance(around, nullcontext):
            assert result.overflowed
            return
        found.append({"weights": result.weights} | gradients(net))
    for name, its in found[1].items():
        factor = 1.0 if name == "weights" or scale is None else scale
        want = found[0][name] / factor
        torch.testing.assert_close(its / factor, want, rtol=0.05, atol=0.02 * float(want.norm()))


def test_small_scaled_gradients_do_not_vanish() -> None:
    """In float16, gradients below 1e-8 are zero unless they are scaled."""
    net = model("plain").float()
    assert isinstance(net, Heads)

    def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
        h = net.trunk(X.float())
        return {t: net.heads[t](h).float().square().mean() * 1e-7 for t in tasks}

    engine = samo.ERM(net, TASKS, aggregator="upgrad", level="representation")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20)
    with torch.autocast("cpu", torch.float16):
        result = engine.backward(losses, grad_scaler=scaler)
    assert result.gramian is not None
    assert result.gramian.diagonal().min() > 0
    assert all(p.grad is not None and p.grad.any() for p in net.trunk.parameters())


def test_matrices_in_another_dtype() -> None:
    """`gradient_dtype` is the dtype in which the cotangents are kept."""
    found = []
    for dtype in (None, torch.float32):
        net = model("attention")
        result = step(net, net.losses, gradient_dtype=dtype)
        found.append({"gramian": result.gramian, **gradients(net)})
    assert not torch.equal(found[0]["gramian"], found[1]["gramian"])
    close(found[0], found[1], tolerance=1e-5)


@pytest.mark.parametrize("kind", [Heads, Attention, Direct])
@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_passes(kind: type[Heads], rho: float) -> None:
    """The trunk is evaluated and differentiated once at each point, whatever the tasks read."""
    net = kind().double()
    forwards = backwards = 0

    def backward(gradient: Tensor | None) -> None:
        nonlocal backwards
        backwards += gradient is not None

    def forward(_module: object, _inputs: object, output: Tensor) -> None:
        nonlocal forwards
        forwards += 1
        output.register_hook(backward)

    net.trunk.get_submodule("0").register_forward_hook(forward)
    engine = samo.GSAM(net, TASKS, aggregator="mgda", rho=rho, level="representation")
    engine.backward(net.losses)
    forwards = backwards = 0
    assert engine.backward(net.losses).level == "representation"
    assert (forwards, backwards) == ((2, 2) if rho else (1, 1))
