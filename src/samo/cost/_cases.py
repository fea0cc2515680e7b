"""The workloads of the measurements: networks of the literature, with random data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samo.engine import Losses

from .._names import unknown
from ..benchmarks.dense import depth_loss, normals_loss, segmentation_loss
from ..benchmarks.networks import CelebACNN, LeNet, SegNetMTAN, SharedTrunk
from ..training import RunError

Size = Literal["small", "standard", "full"]
Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Workload:
    """A model with a batch and the losses of its tasks.

    Attributes:
        model: Called as ``model(inputs, tasks)``; ``model.heads`` has the head of each task.
        inputs: The inputs of the batch.
        targets: The targets by task.
        loss: The loss function of each task.
        parts: The model's dictionaries of modules that belong to single tasks, the heads first.
    """

    model: nn.Module
    inputs: Tensor
    targets: Mapping[str, Tensor]
    loss: Mapping[str, Loss]
    parts: tuple[str, ...] = ("heads",)

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks."""
        return list(self.targets)

    @property
    def own(self) -> dict[str, list[nn.Module]]:
        """The modules of each task, of which the head is the first."""
        parts: list[Any] = [self.model.get_submodule(name) for name in self.parts]
        return {task: [part[task] for part in parts] for task in self.tasks}

    @property
    def shared(self) -> list[nn.Parameter]:
        """The parameters that belong to all tasks."""
        return self.outside(*self.parts)

    def outside(self, *children: str) -> list[nn.Parameter]:
        """Returns the parameters that are not in children of the model with these names."""
        found = [(name.partition(".")[0], p) for name, p in self.model.named_parameters()]
        return [parameter for child, parameter in found if child not in children]

    def losses(self, examples: int | None = None) -> Losses:
        """Creates the closure of a step.

        Args:
            examples: The number of examples; None for the whole batch.

        Returns:
            The closure.
        """
        inputs = self.inputs[:examples]
        targets = {task: target[:examples] for task, target in self.targets.items()}

        def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
            outputs = self.model(inputs, tasks)
            return {task: self.loss[task](outputs[task], targets[task]) for task in tasks}

        return losses

    def to(self, device: torch.device) -> Workload:
        """Moves the model and the batch to a device."""
        targets = {task: target.to(device) for task, target in self.targets.items()}
        return replace(
            self, model=self.model.to(device), inputs=self.inputs.to(device), targets=targets
        )


@dataclass(frozen=True)
class Case:
    """A kind of workload, in several sizes.

    Attributes:
        title: A description in one line.
        sizes: For each size, the number of tasks, the batch, and the other arguments of `build`.
        steps: The default number of measured steps.
        build: Creates the workload.
        most_tasks: The maximum number of tasks.
    """

    title: str
    sizes: Mapping[Size, Mapping[str, int]]
    steps: int
    build: Callable[..., Workload]
    most_tasks: int | None = None


def _mlp(tasks: int, batch: int, *, inputs: int, width: int) -> Workload:
    names = _names(tasks)
    trunk = nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    heads = {task: nn.Sequential(nn.Linear(width, 1), nn.Flatten(0)) for task in names}
    targets = {task: torch.randn(batch) for task in names}
    return Workload(
        SharedTrunk(trunk, heads), torch.randn(batch, inputs), targets, dict.fromkeys(names, _mse)
    )


def _lenet(tasks: int, batch: int, *, width: int, side: int) -> Workload:
    names = _names(tasks)
    return Workload(
        LeNet(names, width=width, side=side),
        torch.rand(batch, 1, side, side),
        {task: torch.randint(10, (batch,)) for task in names},
        dict.fromkeys(names, F.cross_entropy),
    )


def _celeba(tasks: int, batch: int, *, width: int, side: int) -> Workload:
    names = _names(tasks)
    return Workload(
        CelebACNN(names, width=width),
        torch.rand(batch, 3, side, side),
        {task: torch.randint(2, (batch,)).float() for task in names},
        dict.fromkeys(names, F.binary_cross_entropy_with_logits),
    )


def _segnet_mtan(tasks: int, batch: int, *, width: int, height: int, across: int) -> Workload:
    size = (batch, height, across)
    known: dict[str, tuple[int, Tensor, Loss]] = {
        "segmentation": (13, torch.randint(13, size), segmentation_loss),
        "depth": (1, torch.rand(size)[:, None] + 1, depth_loss),
        "normals": (3, F.normalize(torch.randn(batch, 3, height, across)), _normals),
    }
    chosen = dict(list(known.items())[:tasks])
    return Workload(
        SegNetMTAN({task: channels for task, (channels, _, _) in chosen.items()}, width=width),
        torch.rand(batch, 3, height, across),
        {task: target for task, (_, target, _) in chosen.items()},
        {task: loss for task, (_, _, loss) in chosen.items()},
        ("heads", "masks"),
    )


class _Encoder(nn.Module):
    """A transformer encoder whose output is the mean over the tokens."""

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
) -> Workload:
    names = _names(tasks)
    heads = {task: nn.Linear(width, 10) for task in names}
    return Workload(
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
    """Completes the other sizes, given their differences from the standard size."""
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


def case_sizes(case: str, size: str, tasks: int | None, batch: int | None) -> dict[str, int]:
    """Returns the sizes of a case.

    Args:
        case: The case.
        size: The name of the size.
        tasks: Replaces the number of tasks, unless None.
        batch: Replaces the batch, unless None.

    Returns:
        The arguments of `build` by name.

    Raises:
        RunError: If a name is unknown, or a number is out of its range.

    Example:
        >>> case_sizes("mlp", "standard", None, 32)
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


def build(case: str, given: Mapping[str, int], device: torch.device) -> Workload:
    """Creates a workload from `case_sizes`, deterministically; keeps the random state."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return CASES[case].build(**given).to(device)
