"""The problems that steps are measured on: networks of the literature, with random data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samo.engine import Losses

from ..benchmarks._names import unknown
from ..benchmarks.dense._losses import depth_loss, normals_loss, segmentation_loss
from ..benchmarks.networks import CelebACNN, LeNet, SegNetMTAN, SharedTrunk
from ..training import RunError

Size = Literal["small", "standard", "full"]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Problem:
    """A model, and a batch that its tasks' losses are computed on.

    Attributes:
        model: Called as ``model(inputs, tasks)``; ``model.heads`` has each task's own part.
        inputs: The batch.
        targets: What is true of it, by task.
        loss: How each task's outputs are compared with its targets.
    """

    model: nn.Module
    inputs: Tensor
    targets: Mapping[str, Tensor]
    loss: Mapping[str, Loss]

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks."""
        return list(self.targets)

    @property
    def heads(self) -> Mapping[str, nn.Module]:
        """The tasks' own parts."""
        heads: Any = self.model.get_submodule("heads")
        return dict(heads.items())

    @property
    def shared(self) -> list[nn.Parameter]:
        """The parameters outside of the heads."""
        own = {id(p) for head in self.heads.values() for p in head.parameters()}
        return [p for p in self.model.parameters() if id(p) not in own]

    def losses(self, examples: int | None = None) -> Losses:
        """Makes the closure of a step.

        Args:
            examples: On how many examples; None for all of the batch.

        Returns:
            The closure.
        """
        inputs = self.inputs[:examples]
        targets = {task: target[:examples] for task, target in self.targets.items()}

        def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
            outputs = self.model(inputs, tasks)
            return {task: self.loss[task](outputs[task], targets[task]) for task in tasks}

        return losses

    def to(self, device: torch.device) -> Problem:
        """Moves everything to a device.

        Args:
            device: The device.

        Returns:
            The problem there.
        """
        targets = {task: target.to(device) for task, target in self.targets.items()}
        return replace(
            self, model=self.model.to(device), inputs=self.inputs.to(device), targets=targets
        )


@dataclass(frozen=True)
class Case:
    """A kind of problem, in several sizes.

    Attributes:
        title: What it is, in a line.
        sizes: For each size the number of tasks, the batch, and what else `build` takes.
        steps: How many steps are measured if nothing else is asked for.
        build: Makes the problem from those numbers.
        most_tasks: The number of tasks that there can be.
    """

    title: str
    sizes: Mapping[Size, Mapping[str, int]]
    steps: int
    build: Callable[..., Problem]
    most_tasks: int | None = None


def _mlp(tasks: int, batch: int, *, inputs: int, width: int) -> Problem:
    names = _names(tasks)
    trunk = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    heads = {task: nn.Sequential(nn.Linear(width, 1), nn.Flatten(0)) for task in names}
    targets = {task: torch.randn(batch) for task in names}
    return Problem(
        SharedTrunk(trunk, heads), torch.randn(batch, inputs), targets, dict.fromkeys(names, _mse)
    )


def _lenet(tasks: int, batch: int, *, width: int, side: int) -> Problem:
    names = _names(tasks)
    return Problem(
        LeNet(names, width=width, side=side),
        torch.rand(batch, 1, side, side),
        {task: torch.randint(10, (batch,)) for task in names},
        dict.fromkeys(names, F.cross_entropy),
    )


def _celeba(tasks: int, batch: int, *, width: int, side: int) -> Problem:
    names = _names(tasks)
    return Problem(
        CelebACNN(names, width=width),
        torch.rand(batch, 3, side, side),
        {task: torch.randint(2, (batch,)).float() for task in names},
        dict.fromkeys(names, F.binary_cross_entropy_with_logits),
    )


def _segnet_mtan(tasks: int, batch: int, *, width: int, height: int, across: int) -> Problem:
    size = (batch, height, across)
    known: dict[str, tuple[int, Tensor, Loss]] = {
        "segmentation": (13, torch.randint(13, size), segmentation_loss),
        "depth": (1, torch.rand(size)[:, None] + 1, depth_loss),
        "normals": (3, F.normalize(torch.randn(batch, 3, height, across)), _normals),
    }
    chosen = dict(list(known.items())[:tasks])
    return Problem(
        SegNetMTAN({task: channels for task, (channels, _, _) in chosen.items()}, width=width),
        torch.rand(batch, 3, height, across),
        {task: target for task, (_, target, _) in chosen.items()},
        {task: loss for task, (_, _, loss) in chosen.items()},
    )


class _Encoder(nn.Module):
    """A transformer encoder over tokens, with the mean over the tokens at its end."""

    def __init__(self, vocabulary: int, length: int, width: int, layers: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers)

    def forward(self, x: Tensor) -> Tensor:
        encoded: Tensor = self.layers(self.tokens(x) + self.places)
        return encoded.mean(dim=1)


def _transformer(
    tasks: int, batch: int, *, vocabulary: int, length: int, width: int, layers: int
) -> Problem:
    names = _names(tasks)
    heads = {task: nn.Linear(width, 10) for task in names}
    return Problem(
        SharedTrunk(_Encoder(vocabulary, length, width, layers), heads),
        torch.randint(vocabulary, (batch, length)),
        {task: torch.randint(10, (batch,)) for task in names},
        dict.fromkeys(names, F.cross_entropy),
    )


def _names(tasks: int) -> list[str]:
    return [f"task{i}" for i in range(1, tasks + 1)]


def _mse(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output, target)


def _normals(output: Tensor, target: Tensor) -> Tensor:
    return normals_loss(F.normalize(output, dim=1), target)


def _sizes(
    small: Mapping[str, int], standard: Mapping[str, int], full: Mapping[str, int]
) -> Mapping[Size, Mapping[str, int]]:
    """The standard size has all numbers; the others those in which they differ."""
    return {"small": {**standard, **small}, "standard": standard, "full": {**standard, **full}}


CASES: Mapping[str, Case] = MappingProxyType(
    {
        "mlp": Case(
            "a perceptron with two hidden layers",
            _sizes(
                {"tasks": 3, "batch": 8, "inputs": 8, "width": 16},
                {"tasks": 11, "batch": 128, "inputs": 64, "width": 256},
                {},
            ),
            15,
            _mlp,
        ),
        "lenet": Case(
            "the LeNet of Multi-MNIST",
            _sizes(
                {"batch": 8, "width": 2, "side": 20},
                {"tasks": 2, "batch": 256, "width": 10, "side": 36},
                {},
            ),
            10,
            _lenet,
        ),
        "celeba": Case(
            "the nine-layer CNN of CelebA",
            _sizes(
                {"tasks": 3, "batch": 4, "width": 4, "side": 16},
                {"tasks": 40, "batch": 32, "width": 64, "side": 64},
                {"batch": 256},
            ),
            2,
            _celeba,
        ),
        "segnet-mtan": Case(
            "SegNet-MTAN, as on NYUv2",
            _sizes(
                {"width": 2, "height": 32, "across": 64},
                {"tasks": 3, "batch": 2, "width": 64, "height": 96, "across": 128},
                {"height": 288, "across": 384},
            ),
            3,
            _segnet_mtan,
            most_tasks=3,
        ),
        "transformer": Case(
            "a transformer encoder, with dropout",
            _sizes(
                {"tasks": 3, "batch": 4, "vocabulary": 50, "length": 8, "width": 16, "layers": 1},
                {
                    "tasks": 6,
                    "batch": 32,
                    "vocabulary": 1000,
                    "length": 32,
                    "width": 128,
                    "layers": 2,
                },
                {"batch": 64, "vocabulary": 30000, "length": 128, "width": 512, "layers": 6},
            ),
            10,
            _transformer,
        ),
    }
)


def numbers(case: str, size: str, tasks: int | None, batch: int | None) -> dict[str, int]:
    """Looks up what a case is built from.

    Args:
        case: The case.
        size: Its size.
        tasks: Another number of tasks, or None.
        batch: Another batch, or None.

    Returns:
        All numbers by name.

    Raises:
        RunError: If a name is unknown, or a number out of its range.

    Example:
        >>> numbers("mlp", "standard", None, 32)
        {'tasks': 11, 'batch': 32, 'inputs': 64, 'width': 256}
    """
    if case not in CASES:
        raise RunError(unknown("case", case, CASES))
    sizes = {str(name): found for name, found in CASES[case].sizes.items()}
    if size not in sizes:
        raise RunError(unknown("size", size, get_args(Size)))
    most = CASES[case].most_tasks
    if tasks is not None and not 1 <= tasks <= (most or tasks):
        allowed = f"from 1 to {most}" if most else "at least 1"
        raise RunError(f"the number of tasks of {case} must be {allowed}; found {tasks}.")
    if batch is not None and batch < 2:
        raise RunError(f"the batch must be at least 2, for batch normalisation; found {batch}.")
    given = {"tasks": tasks, "batch": batch}
    return {**sizes[size], **{k: v for k, v in given.items() if v is not None}}


def build(case: str, given: Mapping[str, int], device: torch.device) -> Problem:
    """Makes a problem, the same at each call; the global random numbers stay as they are.

    Args:
        case: The case.
        given: What it is built from (see `numbers`).
        device: Where it goes.

    Returns:
        The problem.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return CASES[case].build(**given).to(device)
