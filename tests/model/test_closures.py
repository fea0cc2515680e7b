"""Whatever a closure moves, a step leaves it as one natural pass does."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torchjd.aggregation as agg
from torch import Tensor, nn
from torch.nn import functional as F

import samo
from tests.problems import TASKS, Multi, X, Y, losses
from tests.snapshots import Expected, identities
from tests.tools import close, gradients, same

PRESETS: dict[str, Callable[..., samo.Engine]] = {
    "ERM": lambda model, **o: samo.ERM(model, TASKS, aggregator="mgda", **o),
    "GSAM": lambda model, **o: samo.GSAM(model, TASKS, aggregator="ls", rho=0.1, **o),
    "LSAM": lambda model, **o: samo.LSAM(model, TASKS, aggregator="mgda", rho=0.1, **o),
    "FMTL": lambda model, **o: samo.FMTL(model, TASKS, aggregator="mgda", rho=0.1, **o),
    "SAMO": lambda model, **o: samo.SAMO(model, TASKS, aggregator="ls", rho=0.1, **o),
    "GSAM, representation": lambda model, **o: samo.GSAM(
        model, TASKS, aggregator="mgda", rho=0.1, level="representation", **o
    ),
    "heads": lambda model, **o: samo.GSAM(
        model, TASKS, aggregator="mgda", rho=0.0, rho_own=0.1, **o
    ),
}


# Parameters


class Momentum(nn.Module):
    """A trunk with a frozen copy that follows it, in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.query = nn.Linear(5, 4)
        self.key = copy.deepcopy(self.query).requires_grad_(False)
        self.late = 0

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            for key, query in zip(self.key.parameters(), self.query.parameters(), strict=True):
                self.follow(key, query)
        return self.query(x).tanh() + self.key(x)

    def follow(self, key: nn.Parameter, query: nn.Parameter) -> None:
        if self.how == "in place":
            key.lerp_(query, 0.1)
        elif self.how == "behind autograd's back":  # no change at first, since both are equal
            key.data.lerp_(query.data, 0.1)
        elif self.how == "stored elsewhere":
            key.data = 0.9 * key.data + 0.1 * query.data
        elif self.how == "swapped":
            torch.utils.swap_tensors(key, nn.Parameter(key + 0.1 * query, requires_grad=False))
        elif self.how == "optimizer":
            key.grad = key - query
            torch.optim.SGD([key], lr=0.1).step()
            key.grad = None


class Replaced(nn.Module):
    """A layer that registers a new frozen parameter at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.offset = nn.Parameter(torch.zeros(4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        self.offset = nn.Parameter(self.offset + y.detach().mean(0), requires_grad=False)
        return y + self.offset


class Normalised(nn.Module):
    """A layer that normalises its own weight, in one of several ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.weight = nn.Parameter(torch.randn(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            if self.how == "in place":
                self.weight.copy_(F.normalize(self.weight, dim=1))
            elif self.how == "stored elsewhere":
                self.weight.data = F.normalize(self.weight.data, dim=1)
            elif self.how == "behind autograd's back":
                self.weight.data.clamp_(-0.5, 0.5)
        return F.linear(x, self.weight).tanh()


class Looked(nn.Module):
    """An embedding that bounds the norms of the rows that it looks up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(6, 4, max_norm=0.7)

    def forward(self, x: Tensor) -> Tensor:
        return self.table(torch.arange(len(x)) % 6)


HOW = ["in place", "behind autograd's back", "stored elsewhere"]
FOLLOWING: dict[str, Callable[[], nn.Module]] = {
    **{f"followed {how}": partial(Momentum, how) for how in [*HOW, "swapped", "optimizer"]},
    "replaced": Replaced,
}
NORMALISED: dict[str, Callable[[], nn.Module]] = {
    **{f"normalised {how}": partial(Normalised, how) for how in HOW},
    "looked up": Looked,
}
WRITTEN = FOLLOWING | NORMALISED


def model_of(make: Callable[[], nn.Module]) -> Multi:
    torch.manual_seed(4)
    return Multi(make()).double()


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize("preset", PRESETS)
def test_parameters_that_the_model_writes_move_once(preset: str, name: str) -> None:
    """Whether they are perturbed or not, at the first step and at later ones."""
    model = model_of(WRITTEN[name])
    engine = PRESETS[preset](model)
    for _ in range(3):
        expected = Expected(model, lambda m: losses(m, TASKS))
        engine.backward(partial(losses, model))
        expected.check(model, grad=False)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad, alpha=0.1)
        model.zero_grad()


@pytest.mark.parametrize("name", WRITTEN)
def test_excluded_parameters_move_once(name: str) -> None:
    """Trainable ones, that ``where`` leaves out of the perturbation."""
    model = model_of(WRITTEN[name])
    engine = samo.LSAM(
        model, TASKS, aggregator="mgda", rho=0.1, where=lambda name, _: "heads" in name
    )
    for _ in range(2):
        expected = Expected(model, lambda m: losses(m, TASKS))
        engine.backward(partial(losses, model))
        expected.check(model, grad=False)


@pytest.mark.parametrize("name", FOLLOWING)
def test_all_evaluations_start_from_the_same_parameters(name: str) -> None:
    """At a radius of almost nothing they come to the same losses, also once the copy moves."""
    model = model_of(FOLLOWING[name])
    engine = samo.SAMO(model, TASKS, aggregator="mgda", rho=1e-300, local=samo.SPSA(mu=1e-300))
    for number in range(4):
        seen: list[tuple[str, float]] = []

        def closure(tasks, seen=seen):
            out = losses(model, tasks)
            seen.extend((task, loss.item()) for task, loss in out.items())
            return out

        engine.backward(closure)
        # At step 1, what `lerp_` moves behind autograd's back moves for the first time: replays
        # start from what the natural pass has left.
        if (name, number) != ("followed behind autograd's back", 1):
            assert len(set(seen)) == 3
        with torch.no_grad():
            model.get_parameter("heads.a.weight").add_(0.1)
            for parameter in model.trunk.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)


@pytest.mark.parametrize("name", NORMALISED)
def test_the_graph_is_differentiated_where_it_was_recorded(name: str) -> None:
    """At the representation, it is differentiated a second time after the parameters are back."""
    model, other = model_of(NORMALISED[name]), model_of(NORMALISED[name])
    engine = samo.GSAM(model, TASKS, aggregator="mgda", rho=0.5, level="representation")
    result = engine.backward(partial(losses, model))
    assert result.level == "representation"
    assert result.weights is not None
    method = agg.Constant(result.weights)
    samo.GSAM(other, TASKS, aggregator=method, rho=0.5).backward(partial(losses, other))
    close(gradients(model), gradients(other))


@pytest.mark.parametrize("name", NORMALISED)
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_gradients_are_those_of_the_normalised_point(name: str, alpha: float) -> None:
    """The naive step: perturb the parameters that the natural pass has left, evaluate, restore."""
    model = model_of(NORMALISED[name])
    other = copy.deepcopy(model)
    rho = 0.3
    local = samo.ExactGradient()
    perturbation = samo.Perturbation(rho, alpha=alpha, local=local if alpha < 1 else None)
    samo.Engine(model, TASKS, aggregator="ls", perturbation=perturbation).backward(
        partial(losses, model)
    )
    losses(other, TASKS)
    named = dict(other.named_parameters())
    start = {n: p.detach().clone() for n, p in named.items()}
    trunk = [n for n in named if n.startswith("trunk")]
    total: dict[str, Tensor] = {}
    for task in TASKS:
        own = [n for n in named if n.startswith(f"heads.{task}")]
        its = torch.autograd.grad(losses(other, [task])[task], [named[n] for n in [*trunk, *own]])
        for n, value in start.items():
            named[n].data.copy_(value)
        mean = torch.autograd.grad(
            torch.stack([*losses(other, TASKS).values()]).mean(), [named[n] for n in trunk]
        )
        for n, value in start.items():
            named[n].data.copy_(value)
        ascent = [alpha * m + (1 - alpha) * g for m, g in zip(mean, its, strict=False)]
        size = torch.cat([a.flatten() for a in ascent]).norm()
        size_own = torch.cat([g.flatten() for g in its[len(trunk) :]]).norm()
        for n, a in zip(trunk, ascent, strict=True):
            named[n].data.add_(a, alpha=(rho / size).item())
        for n, g in zip(own, its[len(trunk) :], strict=True):
            named[n].data.add_(g, alpha=(rho / size_own).item())
        here = [*trunk, *own]
        at = torch.autograd.grad(losses(other, [task])[task], [named[n] for n in here])
        for n, g in zip(here, at, strict=True):
            total[n] = total.get(n, torch.zeros_like(g)) + g
        for n, value in start.items():
            named[n].data.copy_(value)
    close(gradients(model), total)


class Rebuilt(nn.Module):
    """A layer that registers a new trainable parameter at each call."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 5))

    def forward(self, x: Tensor) -> Tensor:
        self.weight = nn.Parameter(F.normalize(self.weight.detach(), dim=1))
        return F.linear(x, self.weight)


@pytest.mark.parametrize("preset", ["GSAM", "LSAM", "SAMO"])
def test_trainable_parameters_that_are_replaced_are_refused(preset: str) -> None:
    model = model_of(Rebuilt)
    expected = Expected(model, lambda m: losses(m, TASKS))
    with pytest.raises(samo.ClosureError, match="registers a new parameter"):
        PRESETS[preset](model).backward(partial(losses, model))
    expected.check(model)


# Buffers


class Observer(nn.Module):
    """Buffers that change their shapes, as those of observers for quantisation do."""

    low: Tensor
    high: Tensor
    seen: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.register_buffer("low", torch.empty(0))
        self.register_buffer("high", torch.empty(0))
        self.register_buffer("seen", torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        low, high = torch.aminmax(y.detach(), dim=0)
        if self.low.numel() == 0:
            self.low.resize_(low.shape).copy_(low)
            self.high = high
        self.low.copy_(torch.minimum(self.low, low))
        self.high = torch.maximum(self.high, high)
        self.seen = torch.cat([self.seen, y.detach()[:1].to(self.seen)])
        return (y - self.low) / (self.high - self.low + 1) + self.seen.mean(0)


class Halved(Observer):
    """A buffer whose dtype changes as well."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.seen = self.seen.float() if len(self.seen) % 2 else self.seen.double()
        return y


class Viewed(nn.Module):
    """A buffer that is a part of another one."""

    whole: Tensor
    part: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        whole = torch.zeros(6)
        self.register_buffer("whole", whole)
        self.register_buffer("part", whole[1:5])

    def _apply(self, fn, recurse=True):  # the part stays a part
        super()._apply(fn, recurse)
        self.part = self.whole[1:5]
        return self

    def forward(self, x: Tensor) -> Tensor:
        self.whole.add_(1)
        return self.linear(x) * self.part


SHAPED: dict[str, Callable[[], nn.Module]] = {
    "observer": Observer,
    "halved": Halved,
    "viewed": Viewed,
}


@pytest.mark.parametrize("name", SHAPED)
@pytest.mark.parametrize("preset", PRESETS)
def test_buffers_of_any_shape_move_once(preset: str, name: str) -> None:
    model = model_of(SHAPED[name])
    engine = PRESETS[preset](model)
    for _ in range(3):
        expected = Expected(model, lambda m: losses(m, TASKS))
        seen: list[dict[str, int]] = []

        def closure(tasks, seen=seen):
            out = losses(model, tasks)
            seen.append(identities(model))
            return out

        engine.backward(closure)
        expected.check(model, grad=False)
        assert identities(model) == seen[0]


@pytest.mark.parametrize("name", SHAPED)
def test_all_evaluations_start_from_buffers_of_the_same_shapes(name: str) -> None:
    model = model_of(SHAPED[name])
    engine = samo.SAMO(model, TASKS, aggregator="mgda", rho=1e-300, local=samo.SPSA(mu=1e-300))
    for _ in range(2):
        seen: set[tuple[str, float]] = set()

        def closure(tasks, seen=seen):
            out = losses(model, tasks)
            seen.update((task, loss.item()) for task, loss in out.items())
            return out

        engine.backward(closure)
        assert len(seen) == 3


# Attributes


class Remembers(nn.Module):
    """Attributes of several kinds that a forward pass moves."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.calls = 0
        self.hidden = torch.zeros(4, dtype=torch.float64)
        self.total = torch.zeros(4, dtype=torch.float64)
        self.history: list[Tensor] = []
        self.latest: dict[str, Tensor] = {"mean": torch.zeros(4, dtype=torch.float64)}
        self.still = [torch.ones(2)]

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        mean = y.detach().mean(0)
        self.calls += 1
        self.hidden = 0.5 * self.hidden + mean
        self.total += mean
        self.history.append(mean)
        self.latest["mean"].add_(mean)
        self.made = mean
        return y + self.hidden + self.total + self.history[0] + self.calls * self.latest["mean"]

    @property
    def state(self) -> dict[str, Tensor]:
        """All of it."""
        return {
            "calls": torch.tensor(self.calls),
            "hidden": self.hidden.clone(),
            "total": self.total.clone(),
            "made": self.made.clone(),
            "mean": self.latest["mean"].clone(),
            **{f"history {i}": value.clone() for i, value in enumerate(self.history)},
        }


@pytest.mark.parametrize("preset", PRESETS)
def test_attributes_move_once(preset: str) -> None:
    model = model_of(Remembers)
    trunk = model.trunk
    assert isinstance(trunk, Remembers)
    engine = PRESETS[preset](model)
    for _ in range(3):
        expected = Expected(model, lambda m: losses(m, TASKS))
        history, still = trunk.history, trunk.still
        engine.backward(partial(losses, model))
        expected.check(model, grad=False)
        wanted = expected.model.get_submodule("trunk")
        assert isinstance(wanted, Remembers)
        same(trunk.state, wanted.state)
        assert trunk.history is history
        assert trunk.still is still


def test_all_evaluations_start_from_the_same_attributes() -> None:
    model = model_of(Remembers)
    engine = samo.SAMO(model, TASKS, aggregator="mgda", rho=1e-300, local=samo.SPSA(mu=1e-300))
    for _ in range(3):
        seen: set[tuple[str, float]] = set()

        def closure(tasks, seen=seen):
            out = losses(model, tasks)
            seen.update((task, loss.item()) for task, loss in out.items())
            return out

        engine.backward(closure)
        assert len(seen) == 3


def test_attributes_that_hooks_write_in_a_backward_pass_stay() -> None:
    """As in plain training: what only a backward pass writes is not the forward pass's."""
    model = model_of(lambda: nn.Linear(5, 4))
    noted: Any = model.trunk
    noted.slope = torch.zeros(())

    def closure(tasks):
        h = model.trunk(X)
        h.register_hook(lambda gradient: setattr(noted, "slope", gradient.norm()))
        return {t: (model.heads[t](h).squeeze(-1) - Y).square().mean() for t in tasks}

    engine = samo.GSAM(model, TASKS, aggregator="ls", rho=0.1)
    for _ in range(2):
        before = noted.slope
        engine.backward(closure)
        assert noted.slope is not before


class Odd(nn.Module):
    """A module whose hash depends on its state, and that equals others; as metrics do."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __hash__(self) -> int:
        return hash(self.count)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Odd) and self.count == other.count

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return F.dropout(x, 0.3, self.training) * self.count


class Twins(nn.Module):
    """Two modules that are equal, and change their hashes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.one, self.two = Odd(), Odd()

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return self.one(y) + 2 * self.two(y)


class Nested(nn.Module):
    """One that contains others."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.outer = Odd()
        self.inner = Odd()
        self.outer.add_module("inner", self.inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.outer(self.linear(x)))


@pytest.mark.parametrize("make", [lambda: nn.Sequential(nn.Linear(5, 4), Odd()), Twins, Nested])
@pytest.mark.parametrize("preset", PRESETS)
def test_modules_are_known_by_identity(preset: str, make: Callable[[], nn.Module]) -> None:
    model = model_of(make)
    engine = PRESETS[preset](model)
    for _ in range(2):
        expected = Expected(model, lambda m: losses(m, TASKS))
        engine.backward(partial(losses, model))
        expected.check(model, grad=False)
        both = (model, expected.model)
        counts = [[m.count for m in its.modules() if isinstance(m, Odd)] for its in both]
        assert counts[0] == counts[1]


# Modules outside of the model


class Critic(nn.Module):
    """Everything that may move, in a module that belongs to somebody else."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), Momentum4(), Remembers4()
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Momentum4(nn.Module):
    """A frozen scale that follows its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        self.scale.data.lerp_(x.detach().abs().mean(0), 0.1)
        return x * self.scale


class Remembers4(nn.Module):
    """An attribute that accumulates, with noise of Python's and NumPy's generators."""

    def __init__(self) -> None:
        super().__init__()
        self.total = torch.zeros(4, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        self.total = self.total + x.detach().mean(0)
        noise = random.random() + np.random.rand()  # noqa: NPY002
        return x * noise + self.total


@pytest.mark.parametrize("preset", PRESETS)
def test_guarded_modules_move_once(preset: str) -> None:
    torch.manual_seed(3)
    both = nn.ModuleDict({"model": Multi(nn.Linear(5, 4)), "critic": Critic()}).double()
    model, critic = both["model"], both["critic"]

    def evaluate(both: Any, tasks: list[str]) -> dict[str, Tensor]:
        h = both["critic"](both["model"].trunk(X))
        return {
            t: (both["model"].heads[t](h).squeeze(-1) - (i + 1) * Y).square().mean()
            for i, t in enumerate(TASKS)
            if t in tasks
        }

    engine = PRESETS[preset](model, guards=[critic])
    for _ in range(3):
        expected = Expected(both, lambda m: evaluate(m, TASKS))
        engine.backward(partial(evaluate, both))
        expected.check(both, grad=False)
        assert all(p.grad is None for p in critic.parameters())


@pytest.mark.parametrize("preset", ["LSAM", "SAMO"])
def test_all_evaluations_see_the_same_guarded_modules(preset: str) -> None:
    torch.manual_seed(3)
    model, critic = Multi(nn.Linear(5, 4)).double(), Critic().double()
    perturbation = {
        "LSAM": samo.Perturbation(1e-300, alpha=0.0, local=samo.ExactGradient()),
        "SAMO": samo.Perturbation(1e-300, local=samo.SPSA(mu=1e-300)),
    }[preset]
    engine = samo.Engine(
        model, TASKS, aggregator="mgda", perturbation=perturbation, guards=[critic]
    )
    for _ in range(3):
        seen: set[tuple[str, float]] = set()

        def closure(tasks, seen=seen):
            h = critic(model.trunk(X))
            out = {t: model.heads[t](h).square().mean() for t in tasks}
            seen.update((task, loss.item()) for task, loss in out.items())
            return out

        engine.backward(closure)
        assert len(seen) == 3


@pytest.mark.parametrize("guards", [nn.Linear(1, 1), [torch.ones(1)], ["teacher"], 3])
def test_guards_are_modules(guards: Any) -> None:
    with pytest.raises(TypeError, match="guards must be a list of modules"):
        samo.ERM(Multi(nn.Linear(5, 4)), TASKS, aggregator="ls", guards=guards)
