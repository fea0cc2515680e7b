"""Models that name their representation themselves, and the naive step that follows from it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from samo.benchmarks.networks import SegNet, SegNetMTAN

TASKS = ("a", "b", "c")
X = torch.linspace(-1.5, 2.0, 6 * 5, dtype=torch.float64).view(6, 5).sin()
Y = torch.linspace(0.0, 3.0, 6, dtype=torch.float64).cos()


class Named(nn.Module):
    """A model whose tasks read what they share by `read`: a tensor of the representation.

    In a naive evaluation (`cut` is a dictionary), what is read is a leaf of its own.
    """

    cut: dict[int, tuple[Tensor, Tensor]] | None = None

    def read(self, tensor: Tensor) -> Tensor:
        if self.cut is None:
            return tensor
        leaf = tensor.detach().clone().requires_grad_()
        return self.cut.setdefault(id(tensor), (tensor, leaf))[1]

    def losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        raise NotImplementedError


class Heads(Named):
    """A trunk and linear heads; the tasks differ in scale and curvature."""

    def __init__(self, trunk: nn.Module | None = None, width: int = 4) -> None:
        super().__init__()
        self.trunk: Any = trunk or nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, width))
        self.heads = nn.ModuleDict({task: nn.Linear(width, 1) for task in TASKS})

    def features(self) -> Tensor:
        return self.trunk(X)

    def head(self, task: str, h: Tensor) -> Tensor:
        return self.heads[task](h).squeeze(-1)

    def loss(self, task: str, h: Tensor) -> Tensor:
        o = self.head(task, h)
        if task == "a":
            return (o - Y).square().mean()
        return 3 * F.softplus(o * Y).mean() if task == "b" else 0.2 * (o + 2 * Y).abs().mean() + 0.1

    def losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        h = self.read(self.features())
        return {task: self.loss(task, h) for task in tasks}


class Views(Heads):
    """Views, slices and operations in place above and below the cut."""

    def features(self) -> Tensor:
        h = self.trunk(X).tanh() * 2
        h[:, 0].mul_(2.0)
        return h

    def head(self, task: str, h: Tensor) -> Tensor:
        if task == "b":
            h = (h * 2).view(2, 3, 4).flip(0).mul_(0.5).reshape(6, 4)
        return self.heads[task](h).squeeze(-1)


class Branch(Heads):
    """Tasks a and b read a branch, c the trunk below it."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Linear(4, 4)

    def losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        h = self.features()
        low, high = self.read(h), self.read(self.branch(h).tanh())
        return {task: self.loss(task, low if task == "c" else high) for task in tasks}


class Attention(Heads):
    """Each task reads both stages of the trunk, and attends to one by a mask of its own."""

    def losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        first = self.trunk[0](X).tanh()
        second = self.trunk[2](first)
        first, second = self.read(first), self.read(second)
        return {
            task: self.loss(task, second * first[:, :4].sigmoid()) + first.square().mean()
            for task in tasks
        }


class Inputs(Heads):
    """A trunk used twice, with two inputs; one task reads one of its outputs only."""

    def losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        h, other = self.read(self.trunk(X)), self.read(self.trunk(X.flip(0) + 1))
        return {t: self.loss(t, h if t == "c" else (h - other).abs() * h) for t in tasks}


class Direct(Heads):
    """Tasks that use a shared parameter themselves: a tied head, and weight decay in a loss."""

    def losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        h, weight = self.read(self.features()), self.read(self.trunk[2].weight)
        found = {task: self.loss(task, h) for task in tasks}
        for task in found:
            if task == "a":
                found[task] = found[task] + (h @ weight).tanh().mean()
            if task == "b":
                found[task] = found[task] + 0.1 * weight.square().sum()
        return found


class Apart(Heads):
    """Task c evaluates the trunk by itself: it shares parameters, but no tensor."""

    def losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        h = self.read(self.features())
        own = functional_call(
            self.trunk, {n: self.read(p) for n, p in self.trunk.named_parameters()}, X + 1
        )
        return {task: self.loss(task, own if task == "c" else h) for task in tasks}


class Nothing(Heads):
    """Task a has no parameters of its own, b shares nothing, c has no labels in this batch."""

    def losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        h = self.read(self.features())
        found = {
            "a": h.square().mean(),
            "b": self.loss("b", X[:, :4]),
            "c": (self.head("c", h) * 0).sum(),
        }
        return {task: found[task] for task in tasks}


class Masked(Heads):
    """Samples without labels are left out of the loss."""

    def loss(self, task: str, h: Tensor) -> Tensor:
        labelled = (torch.arange(6) + TASKS.index(task)) % 3 > 0
        return super().loss(task, torch.where(labelled[:, None], h, h.detach() * 0))


class Sum(Heads):
    """A loss that contains another one."""

    def losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        h = self.features()
        first = self.read(self.loss("a", h))
        h = self.read(h)
        found = {"a": first, "b": self.loss("b", h), "c": first.exp() + self.loss("c", h)}
        return {task: found[task] for task in tasks}


class Lstm(Heads):
    """Tasks that read different outputs of one operation."""

    def __init__(self) -> None:
        super().__init__(nn.LSTM(1, 4, batch_first=True))

    def losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        out, (_, cell) = self.trunk(X.unsqueeze(-1))
        out, cell = self.read(out), self.read(cell)
        return {t: self.loss(t, cell[0] if t == "b" else out[:, -1]) for t in tasks}


class Encoder(Heads):
    """A transformer with dropout."""

    def __init__(self) -> None:
        super().__init__(nn.TransformerEncoderLayer(4, 2, 8, dropout=0.3, batch_first=True))
        self.embed = nn.Linear(1, 4)

    def features(self) -> Tensor:
        return self.trunk(self.embed(X.unsqueeze(-1))).mean(1)


class Spectrum(Heads):
    """A complex representation."""

    def features(self) -> Tensor:
        return torch.fft.fft(self.trunk(X), dim=0)

    def head(self, task: str, h: Tensor) -> Tensor:
        return super().head(task, h.real + h.imag if task == "a" else h.abs())


class Recomputed(Heads):
    """Checkpointed trunk and heads."""

    def features(self) -> Tensor:
        found: Tensor = checkpoint(self.trunk, X, use_reentrant=False)
        return found

    def head(self, task: str, h: Tensor) -> Tensor:
        found: Tensor = checkpoint(super().head, task, h, use_reentrant=False)
        return found


class Doubled(torch.autograd.Function):
    """An operation with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * gradients[0]


class Custom(Heads):
    """Such an operation in the trunk, at the cut and in a head."""

    def features(self) -> Tensor:
        return Doubled.apply(self.trunk[2](Doubled.apply(self.trunk[0](X))))

    def head(self, task: str, h: Tensor) -> Tensor:
        return super().head(task, Doubled.apply(h) if task == "a" else h)


class Dense(Named):
    """A dense network of the benchmarks, on images in the channels-last format."""

    def __init__(self, network: type[SegNet] | type[SegNetMTAN]) -> None:
        super().__init__()
        inner: Any = network(dict(zip(TASKS, (3, 1, 2), strict=True)), width=2)
        self.network: Any = inner.to(memory_format=torch.channels_last)

    def losses(self, tasks: Sequence[str]) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(3)
        x = torch.randn(1, 3, 32, 32, dtype=torch.float64, generator=generator)
        stages = self.network.trunk(x.to(memory_format=torch.channels_last))
        found = {}
        for task in tasks:
            out = self.network.heads[task](self.attended(task, stages))
            found[task] = (out - TASKS.index(task)).square().mean()
        return found

    def attended(self, task: str, stages: Any) -> Tensor:
        if isinstance(self.network, SegNet):
            return self.read(stages.decoded[0])
        read = type(stages)(*([self.read(t) for t in part] for part in stages))
        # All tasks use these parameters, each in a part of its own.
        attention = _Attention(self.network)
        links = [(n, p) for n, p in attention.named_parameters() if "_links" in n]
        found: Tensor = functional_call(
            attention, {n: self.read(p) for n, p in links}, (task, read)
        )
        return found


class _Attention(nn.Module):
    """Calls the attention of an MTAN, so that its parameters can be replaced."""

    def __init__(self, network: SegNetMTAN) -> None:
        super().__init__()
        self.network = network

    def forward(self, task: str, stages: Any) -> Tensor:
        return self.network._attended(task, stages)


def _frozen() -> Heads:
    model = Heads()
    model.trunk.get_submodule("0").requires_grad_(False)
    return model


def _batchnorm() -> Heads:
    layers = nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Dropout(0.3)
    return Heads(nn.Sequential(*layers))


def _tied() -> Heads:
    one, two = nn.Linear(5, 5), nn.Linear(5, 5)
    two.weight = one.weight
    return Heads(nn.Sequential(one, nn.Tanh(), two, nn.Tanh(), nn.Linear(5, 4)))


MODELS: dict[str, Callable[[], Named]] = {
    "plain": Heads,
    "views": Views,
    "branch": Branch,
    "attention": Attention,
    "inputs": Inputs,
    "direct": Direct,
    "apart": Apart,
    "nothing": Nothing,
    "masked": Masked,
    "sum": Sum,
    "lstm": Lstm,
    "transformer": Encoder,
    "complex": Spectrum,
    "recomputed": Recomputed,
    "custom": Custom,
    "frozen": _frozen,
    "batchnorm": _batchnorm,
    "tied": _tied,
    "segnet": lambda: Dense(SegNet),
    "mtan": lambda: Dense(SegNetMTAN),
}


def model(name: str) -> Named:
    """One of the models, in float64."""
    torch.manual_seed(7)
    return MODELS[name]().double()


@dataclass
class Point:
    """What the naive step finds at one point.

    Attributes:
        rows: The gradient of each task's loss with respect to the representation, ``[K, dim(z)]``.
        gradients: The gradient of each task's loss, by parameter.
        pull_back: Multiplies a vector of size dim(z) by the transposed Jacobian of z.
    """

    rows: Tensor
    gradients: dict[str, dict[str, Tensor]]
    pull_back: Callable[[Tensor], dict[str, Tensor]] = field(repr=False)


def point(model: Named, tasks: Sequence[str] = TASKS) -> Point:
    """Evaluates a copy of the model twice: with the representation as leaves, and as it is."""
    apart, whole = copy.deepcopy(model), copy.deepcopy(model)
    named = {n: p for n, p in whole.named_parameters() if p.requires_grad}
    apart.cut = {}
    with torch.random.fork_rng():
        values = apart.losses(tasks)
    z, leaves = zip(*apart.cut.values(), strict=True)
    rows = [
        torch.autograd.grad(values[t], leaves, retain_graph=True, materialize_grads=True)
        for t in tasks
    ]
    with torch.random.fork_rng():
        losses = whole.losses(tasks)
    gradients = {t: _gradients([losses[t]], list(named.values()), named) for t in tasks}
    inner = {n: p for n, p in apart.named_parameters() if p.requires_grad}
    return Point(
        torch.stack([torch.cat([_flat(g) for g in row]) for row in rows]),
        gradients,
        lambda vector: _gradients(z, list(inner.values()), inner, _unflat(vector, z)),
    )


def _gradients(
    outputs: Sequence[Tensor],
    parameters: Sequence[Tensor],
    names: Mapping[str, Tensor],
    seeds: Sequence[Tensor] | None = None,
) -> dict[str, Tensor]:
    kept = [i for i, out in enumerate(outputs) if out.requires_grad]
    found = torch.autograd.grad(
        [outputs[i] for i in kept],
        parameters,
        None if seeds is None else [seeds[i] for i in kept],
        retain_graph=True,
        allow_unused=True,
    )
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


def _flat(gradient: Tensor) -> Tensor:
    return (torch.view_as_real(gradient) if gradient.is_complex() else gradient).flatten()


def _unflat(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    sizes = [t.numel() * (2 if t.is_complex() else 1) for t in like]
    parts = zip(vector.split(sizes), like, strict=True)
    return [
        torch.view_as_complex(p.view(*t.shape, 2)) if t.is_complex() else p.view(t.shape)
        for p, t in parts
    ]
