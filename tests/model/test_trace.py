"""What a step evaluates elsewhere leaves no trace, and sees what the natural pass saw."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import numpy as np
import pytest
import torch
import torchjd.aggregation as agg
import torchjd.scalarization as sca
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import samo
from tests import reference
from tests.problems import TASKS, Multi, RunningScale, X, losses, problem
from tests.snapshots import Expected, identities, rng
from tests.tools import close, gradients, same

PRESETS = {
    "ERM": lambda model, **o: samo.ERM(model, TASKS, **o),
    "GSAM": lambda model, **o: samo.GSAM(model, TASKS, rho=0.1, **o),
    "LSAM": lambda model, **o: samo.LSAM(model, TASKS, rho=0.1, **o),
    "FMTL": lambda model, **o: samo.FMTL(model, TASKS, rho=0.1, **o),
    "SAMO": lambda model, **o: samo.SAMO(model, TASKS, rho=0.1, **o),
    "SAMO, one-sided": lambda model, **o: samo.SAMO(
        model, TASKS, rho=0.1, local=samo.SPSA(antithetic=False, samples=2), **o
    ),
}


def engine_of(preset, model, aggregator="mgda", **options):
    return PRESETS[preset](model, aggregator=aggregator, **options)


# Buffers


class SharedBuffer(nn.Module):
    """Two layers that keep one buffer between them, which each changes in place."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = RunningScale(5), RunningScale(5)
        self.two.scale = self.one.scale
        self.out = nn.Linear(5, 4)

    def forward(self, x):
        return self.out(self.two(self.one(x)))


class Awkward(nn.Module):
    """Buffers that are not saved, that are None at first, that are written behind autograd's back,
    that are replaced, and that are registered by the forward pass itself."""

    hidden: Tensor
    late: Tensor | None
    behind: Tensor
    steps: Tensor
    own: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.register_buffer("hidden", torch.ones(4), persistent=False)
        self.register_buffer("late", None)
        self.register_buffer("behind", torch.ones(4))
        self.register_buffer("steps", torch.tensor(0))

    def forward(self, x):
        y = self.linear(x)
        size = y.detach().abs().mean(0)
        if self.late is None:
            self.late = size
        else:
            self.late.lerp_(size, 0.5)
        self.steps += 1
        self.hidden = self.hidden * 0.9 + size
        self.behind.data.mul_(0.9).add_(size)
        if not hasattr(self, "own"):
            self.register_buffer("own", size.clone())
        self.own.add_(1)
        return y / (self.late + self.behind + self.hidden * self.own)


class Residual(nn.Module):
    """A block whose inside is recomputed in the backward pass."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x):
        return checkpoint(self.block, x, use_reentrant=False)


BUFFERED: dict[str, Callable[[], nn.Module]] = {
    "batchnorm": lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)),
    "cumulative": lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, momentum=None)),
    "running": lambda: nn.Sequential(nn.Linear(5, 4), RunningScale(4)),
    "shared": SharedBuffer,
    "awkward": Awkward,
    "spectral": lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(5, 4)), nn.Tanh()),
    "checkpoint": lambda: nn.Sequential(
        nn.Linear(5, 4),
        Residual(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3))),
    ),
}


def buffered(name):
    torch.manual_seed(4)
    return Multi(BUFFERED[name]()).double()


@pytest.mark.parametrize("name", BUFFERED)
@pytest.mark.parametrize("preset", PRESETS)
def test_buffers_change_in_the_natural_pass_only(preset, name):
    """In values, in which tensors they are, and what is registered at all; step after step."""
    model = buffered(name)
    engine = engine_of(preset, model, "ls" if name in {"running", "shared"} else "mgda")
    for mode in (True, True, False):
        model.train(mode)
        after_natural: list[dict[str, int]] = []

        def closure(tasks, after_natural=after_natural):
            out = losses(model, tasks)
            after_natural.append(identities(model))
            return out

        expected = Expected(model, lambda m: losses(m, TASKS))
        engine.backward(closure)
        expected.check(model, grad=False)
        assert identities(model) == after_natural[0]


@pytest.mark.parametrize("name", BUFFERED)
def test_all_evaluations_start_from_the_same_buffers(name):
    """At the same parameters (a radius of almost nothing) they come to the same losses."""
    model = buffered(name)
    for _ in range(2):
        engine = samo.SAMO(model, TASKS, aggregator="mgda", rho=1e-300, local=samo.SPSA(mu=1e-300))
        seen: list[tuple[str, float]] = []

        def closure(tasks, seen=seen):
            out = losses(model, tasks)
            seen.extend((task, loss.item()) for task, loss in out.items())
            return out

        engine.backward(closure)
        assert len(seen) == 12
        assert len(set(seen)) == 3


class SavesItsBuffer(nn.Module):
    """A layer whose graph keeps a buffer that the layer changes at each call."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x):
        y = self.linear(x)
        self.scale.add_(y.detach().abs().mean(0))
        return (y * self.scale).tanh()


def test_the_natural_graph_can_be_used_after_replays():
    """A buffer put back in place between a forward and its backward pass would break its graph."""
    torch.manual_seed(0)
    model = Multi(SavesItsBuffer()).double()
    named = dict(model.named_parameters())
    own = {task: [n for n in named if n.startswith(f"heads.{task}")] for task in TASKS}
    shared = [n for n in named if n.startswith("trunk")]
    case = reference.Problem(model, TASKS, losses, shared, own)
    wanted, _ = reference.step(
        case, lambda m, _: m.sum(0), torch.ones_like, rho=0.1, alpha=0.5, estimate="exact"
    )
    # With an exact estimator, the natural graph is run again between the replays.
    engine = samo.SAMO(model, TASKS, aggregator="ls", rho=0.1, local=samo.ExactGradient())
    engine.backward(partial(losses, model))
    close(gradients(model), wanted)


@pytest.mark.parametrize("preset", PRESETS)
def test_checkpointing_changes_no_number(preset):
    """Activations that are recomputed, with batch norm and dropout, give the same gradients."""
    block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Tanh())
    found = []
    for wrapped in (False, True):
        torch.manual_seed(3)
        inside = copy.deepcopy(block)
        model = Multi(nn.Sequential(nn.Linear(5, 4), Residual(inside) if wrapped else inside))
        model.double()
        engine = engine_of(preset, model)
        for _ in range(2):
            engine.backward(partial(losses, model))
        kept = gradients(model) | {n: b.clone() for n, b in model.named_buffers()}
        found.append({name.replace(".block", ""): value for name, value in kept.items()})
        found.append(rng())
    same(found[0], found[2])
    same(found[1], found[3])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("preset", PRESETS)
def test_a_scripted_part_is_as_any_other(preset):
    """It has buffers, and draws, but no hooks can be put on it."""
    found = []
    for scripted in (False, True):
        torch.manual_seed(8)
        trunk = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.3))
        model = Multi(
            torch.jit.script(trunk) if scripted else trunk,
            head=lambda n: nn.Sequential(nn.Dropout(0.2), nn.Linear(n, 1)),
        ).double()
        engine = engine_of(preset, model)
        for _ in range(3):
            engine.backward(partial(losses, model))
        found.append(gradients(model) | {n: b.clone() for n, b in model.named_buffers()} | rng())
    close(found[0], found[1])


# Random numbers


class Noisy(nn.Module):
    """A trunk and heads with noise of one kind; what noise each task has met is noted."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.trunk = nn.Linear(5, 4)
        self.drop = nn.Dropout(0.5)
        self.heads = nn.ModuleDict({task: NoisyHead(kind) for task in TASKS})
        self.seen: list[dict[str, Tensor]] = []

    def forward(self, tasks):
        h = self.trunk(X).tanh()
        ones = torch.ones_like(h)
        mask = self.drop(ones) if self.kind == "trunk" else ones
        seen, out = {}, {}
        for task in tasks:
            noise = mask
            if self.kind == "task by task":
                h = self.trunk(X).tanh()
            if self.kind in {"one module for all", "task by task"}:
                noise = self.drop(h) / h
            elif self.kind == "one module, outside the graph":
                noise = self.drop(ones)
            elif self.kind == "functional before":
                noise = F.dropout(ones, 0.5)
            elif self.kind == "python, outside":
                noise = ones * random.random()
            inner, out[task] = self.heads[task](h * noise)
            if self.kind == "functional after":
                out[task] = out[task] * (noise := F.dropout(ones[:, 0], 0.5))
            seen[task] = noise if inner is None else inner
        self.seen.append(seen)
        return out


class NoisyHead(nn.Module):
    """A linear head, with noise of some kinds."""

    steps = 0

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.linear = nn.Linear(4, 1)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        ones = torch.ones_like(x)
        noise = {
            "heads": lambda: self.drop(ones),
            "functional in heads": lambda: F.dropout(ones, 0.5, training=self.training),
            "noise in heads": lambda: torch.randn_like(x),
            "python": lambda: ones * random.random(),
            "python gauss": lambda: ones * random.gauss(0, 1),
            "numpy": lambda: ones * np.random.rand(),  # noqa: NPY002
            "numpy normal": lambda: ones * np.random.normal(),  # noqa: NPY002
            "at times": self.at_times,
        }.get(self.kind, lambda: None)()
        return noise, self.linear(x if noise is None else x * noise).squeeze(-1)

    def at_times(self):
        return torch.rand(6, 4).double() if self.steps % 2 else torch.ones(6, 4)


KINDS = [
    "trunk",
    "heads",
    "functional in heads",
    "noise in heads",
    "python",
    "python gauss",
    "numpy",
    "numpy normal",
    "at times",
    "one module for all",
    "one module, outside the graph",
    "functional before",
    "functional after",
    "python, outside",
    "task by task",
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("preset", ["GSAM", "LSAM", "SAMO, one-sided"])
def test_all_evaluations_of_a_step_see_the_same_random_numbers(preset, kind):
    """Also one that evaluates a single task's head, and however the numbers were drawn."""
    torch.manual_seed(1)
    model = Noisy(kind).double()
    engine = engine_of(preset, model)
    steps = []
    for number in range(4):
        model.seen.clear()
        NoisyHead.steps = number
        expected = Expected(model, lambda m: losses(m, TASKS))
        engine.backward(partial(losses, model))
        expected.check(model, grad=False)
        natural, *replays = model.seen
        assert natural.keys() == set(TASKS)
        for seen in replays:
            same(seen, {task: natural[task] for task in seen})
        steps.append(natural)
    assert not any(torch.equal(steps[1][t], steps[3][t]) for t in TASKS), "the noise is none"


@pytest.mark.parametrize("kind", [*KINDS[:4], "one module for all", "task by task"])
def test_only_the_heads_that_were_asked_for_are_evaluated(kind):
    """Common random numbers don't cost evaluations where noise belongs to modules."""
    model = Noisy(kind).double()
    engine = samo.SAMO(model, TASKS, aggregator="mgda", rho=0.1)
    for _ in range(2):
        model.seen.clear()
        engine.backward(partial(losses, model))
        assert [len(seen) for seen in model.seen] == [3] + [1] * 9


def test_micro_batches_see_the_same_random_numbers():
    """At the first step as well, where the partition is looked for before the natural passes."""
    model = Noisy("heads").double()
    engine = samo.LSAM(model, TASKS, aggregator="mgda", rho=0.1)
    for number in range(2):
        model.seen.clear()
        expected = Expected(model, *[lambda m: losses(m, TASKS)] * 2)
        engine.backward([partial(losses, model)] * 2)
        expected.check(model, grad=False)
        for seen in (model.seen[-8:-4], model.seen[-4:]):
            for replay in seen[1:]:
                same(replay, {task: seen[0][task] for task in replay})
        assert len(model.seen) == (10 if number == 0 else 8)


def test_noise_that_hooks_draw_is_the_same_too():
    """Hooks of the user's own run inside of the calls that are replayed."""
    model = problem("plain").model
    seen: list[tuple[nn.Module, Tensor]] = []

    def noisy(module, inputs):
        seen.append((module, torch.rand(1)))
        return inputs[0] * seen[-1][1].double()

    for head in model.get_submodule("heads").children():
        head.register_forward_pre_hook(noisy)
    engine = samo.LSAM(model, TASKS, aggregator="mgda", rho=0.1)
    for _ in range(2):
        seen.clear()
        engine.backward(partial(losses, model))
        natural = dict(seen[:3])
        assert len(seen) == 6
        assert len({value.item() for value in natural.values()}) == 3
        assert all(natural[module] == value for module, value in seen)


@pytest.mark.parametrize("name", ["plain", "dropout_heads"])
@pytest.mark.parametrize(
    "aggregator",
    [
        agg.PCGrad,
        agg.GradDrop,
        agg.Random,
        agg.RandomWeighting,
        sca.Random,
        agg.MGDA,
        lambda: sca.FAMO(3),
        lambda: agg.TrimmedMean(1),
    ],
    ids=lambda make: type(make()).__name__,
)
def test_random_numbers_that_an_aggregator_draws_are_the_engine_s_own(name, aggregator):
    """The global generators go on from the natural pass; one seed, one sequence of draws."""
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(6)
        model = problem(name).model
        before = rng()
        engine = samo.FMTL(model, TASKS, aggregator=aggregator(), rho=0.1, seed=seed)
        same(rng(), before)  # that the method is tried out when the engine is made is not seen
        for _ in range(2):
            expected = Expected(model, lambda m: losses(m, TASKS))
            engine.backward(partial(losses, model))
            expected.check(model, grad=False)
        runs.append(gradients(model))
    same(runs[0], runs[1])
    if isinstance(aggregator(), agg.GradDrop | agg.Random | agg.RandomWeighting | sca.Random):
        with pytest.raises(AssertionError):
            same(runs[0], runs[2])


@pytest.mark.parametrize("preset", PRESETS)
def test_modes_may_be_switched_between_steps(preset):
    """Modules that draw in the mode of now are those that count, whatever they did before."""
    model = problem("dropout_heads").model
    engine = engine_of(preset, model)
    masks: list[tuple[nn.Module, Tensor]] = []
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(lambda m, _, out: masks.append((m, out.detach() == 0)))
    steps = [False, True, False, True]
    parts = [model, model, *map(model.get_submodule, ("heads", "heads.b"))]
    for mode, part in zip(steps, parts, strict=True):
        part.train(mode)
        masks.clear()
        expected = Expected(model, lambda m: losses(m, TASKS))
        masks.clear()
        engine.backward(partial(losses, model))
        expected.check(model, grad=False)
        natural = dict(masks[:4])
        assert len(natural) == 4
        for module, mask in masks:
            assert torch.equal(mask, natural[module])
            assert not module.training or mask.any()


# Autocast


def bf16_points(model, engine, autocast_inside, autocast_outside):
    """The losses and the weights, as a low-precision matrix product saw them, of each call."""
    seen = []

    def closure(tasks):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast_inside or autocast_outside):
            weight = model.trunk[0].weight
            # The identity times the weight: what autocast takes the weight to be.
            taken = F.linear(torch.eye(5), weight).T.float()
            seen.append((taken.detach(), weight.detach().clone()))
            out = model(tasks)
            return {
                t: (o.float() * (i + 1) - 1).square().mean() for i, (t, o) in enumerate(out.items())
            }

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast_outside):
        engine.backward(closure)
        after = F.linear(torch.eye(5), model.trunk[0].weight).T.float().detach()
    return seen, after


class Small(nn.Module):
    """A float32 model, whose input is a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 4))
        self.heads = nn.ModuleDict({task: nn.Linear(4, 1) for task in TASKS})

    def forward(self, tasks):
        h = self.trunk(X.float())
        return {task: self.heads[task](h).squeeze(-1) for task in tasks}


@pytest.mark.parametrize("where", ["inside", "outside", "both"])
@pytest.mark.parametrize("preset", PRESETS)
def test_under_autocast_perturbed_evaluations_see_perturbed_weights(preset, where):
    """Low-precision copies of weights are kept within an autocast region: they would be stale."""
    torch.manual_seed(9)
    model = Small()
    for _ in range(2):
        seen, after = bf16_points(
            model, engine_of(preset, model), where != "outside", where != "inside"
        )
        for taken, weight in seen:
            assert torch.equal(taken, weight.bfloat16().float())
        if preset != "ERM":
            assert any(not torch.equal(seen[0][0], taken) for taken, _ in seen[1:])
        weight = model.get_parameter("trunk.0.weight").detach()
        if where != "inside":
            assert torch.equal(after, weight.bfloat16().float())
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(0.9)


@pytest.mark.parametrize("aggregator", ["ls", "mgda", "config"])
@pytest.mark.parametrize("preset", PRESETS)
def test_autocast_around_a_step_is_for_its_closure_only(preset, aggregator):
    """What is in half precision there is the model, not the engine's arithmetic on gradients."""
    found = []
    for outside in (False, True):
        torch.manual_seed(9)
        model = Small()
        dtypes: list[torch.dtype] = []

        def closure(tasks, model=model, outside=outside, dtypes=dtypes):
            with (
                torch.autocast("cpu", torch.bfloat16, enabled=True)
                if not outside
                else nullcontext()
            ):
                out = model(tasks)
                dtypes.extend(o.dtype for o in out.values())
                return {
                    t: (o.float() * (i + 1)).cos().mean() for i, (t, o) in enumerate(out.items())
                }

        engine = engine_of(preset, model, aggregator)
        with torch.autocast("cpu", torch.bfloat16, enabled=outside):
            engine.backward(closure)
            assert torch.is_autocast_enabled("cpu") is outside
        assert set(dtypes) == {torch.bfloat16}
        found.append(gradients(model))
    same(found[0], found[1])
