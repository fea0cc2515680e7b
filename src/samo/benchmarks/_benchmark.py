"""What a benchmark is: data, model, losses and metrics of one multi-task problem."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from torch import Generator, Tensor, nn

if TYPE_CHECKING:
    import torchmetrics

Split = Literal["train", "validation", "test"]
OptimizerName = Literal["adam", "adamw", "sgd"]


@dataclass(frozen=True)
class Metric:
    """A figure of merit of one task.

    Args:
        make: Makes a fresh ``torchmetrics.Metric``, which is updated with predictions and targets.
        higher_is_better: The direction.
        scale: What the computed value is multiplied by to be in `unit` (100 for a percentage).
        unit: The unit, for tables and axes.
    """

    make: Callable[[], torchmetrics.Metric]
    higher_is_better: bool
    scale: float = 1.0
    unit: str = ""


@dataclass(frozen=True)
class Defaults:
    """The customary hyper-parameters of a benchmark, the same for every method and preset.

    Args:
        epochs: How often to go through the training data.
        batch_size: The number of examples a step.
        lr: The learning rate.
        rho: The radius ρ of the perturbation.
        rho_grid: The radii to choose from on validation data.
        weight_decay: The optimizer's weight decay.
        optimizer: The optimizer.
        schedule: How the learning rate changes: ``"constant"``, ``"step"`` (by default halved after
            half of the epochs), ``"plateau"`` or ``"cosine"``.
        schedule_options: The schedule's options.
        average_last: Report the mean over this many last epochs; 0 for the epoch that is best on
            validation data.
    """

    epochs: int
    batch_size: int
    lr: float
    rho: float = 0.05
    rho_grid: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)
    weight_decay: float = 0.0
    optimizer: OptimizerName = "adam"
    schedule: str = "constant"
    schedule_options: Mapping[str, Any] = field(default_factory=dict)
    average_last: int = 0


class Benchmark(ABC):
    """One multi-task problem. Fill in the four methods and the attributes for your own.

    No registration is needed: ``samo train my_module:MyBenchmark`` finds the class by its address.
    What a batch is, is up to the benchmark: only its own `outputs` looks inside. It may be a tensor
    with labels, a graph, or (multi-input problems) a mapping from tasks to batches. Where it holds
    tensors in tuples, lists or mappings, or has a method ``to``, training moves it to the device.

    Attributes:
        defaults: The customary hyper-parameters.
        tasks: The names of the tasks.
        metrics: The metrics of each task, by name. Those of one task may differ from another's. The
            first of each task decides, on validation data, which epoch is reported.

    Example:
        >>> import samo.benchmarks
        >>> benchmark = samo.benchmarks.create("digits")
        >>> model = benchmark.model()
        >>> batch = next(iter(benchmark.batches("validation", ["left"], batch_size=16)))
        >>> losses = benchmark.losses(model, batch, ["left"])
        >>> losses["left"].shape
        torch.Size([])
    """

    defaults: ClassVar[Defaults]
    tasks: tuple[str, ...]
    metrics: Mapping[str, Mapping[str, Metric]]

    @abstractmethod
    def model(self) -> nn.Module:
        """Makes a fresh model, initialised from torch's global generator."""

    @abstractmethod
    def batches(
        self,
        split: Split,
        tasks: Sequence[str],
        batch_size: int,
        generator: Generator | None = None,
    ) -> Iterable[Any]:
        """Gives the batches of a split; a ``DataLoader`` will do.

        Args:
            split: Which part of the data.
            tasks: The tasks that the batches are for: each batch has labels for one of them at
                least, and nothing that only others need has to be loaded.
            batch_size: How many examples a batch has (a task, where each has its own input).
            generator: Shuffles, anew at each iteration; None keeps the order. It must be the only
                source of chance in the order: its state is what a resumed run continues from.

        Returns:
            An iterable that can be gone through again and again, an epoch each time.
        """

    @abstractmethod
    def outputs(
        self, model: nn.Module, batch: Any, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Evaluates the model on a batch.

        Args:
            model: The model.
            batch: One of the `batches`.
            tasks: The tasks that are asked for; the heads of others need not be evaluated.

        Returns:
            Predictions and targets by task. A task without labels in this batch is left out.
        """

    @abstractmethod
    def loss(self, task: str, prediction: Tensor, target: Tensor) -> Tensor:
        """Computes the loss of a task, a scalar (a mean over the examples).

        Args:
            task: The task.
            prediction: What `outputs` predicted.
            target: What it gave as the target.

        Returns:
            The loss.
        """

    def losses(self, model: nn.Module, batch: Any, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Computes the losses of the tasks that are asked for: `outputs`, then `loss`.

        Args:
            model: The model.
            batch: One of the `batches`.
            tasks: The tasks that are asked for.

        Returns:
            The losses by task.
        """
        outputs = self.outputs(model, batch, tasks)
        return {task: self.loss(task, *pair) for task, pair in outputs.items()}
