"""The interface of a benchmark: data, model, losses and metrics of a multi-task problem."""

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
    """A metric of one task.

    Args:
        make: Creates a new ``torchmetrics.Metric``, which is updated with predictions and targets.
        higher_is_better: Whether higher values are better.
        scale: The factor that converts the computed value to `unit` (100 for a percentage).
        unit: The unit in tables and on axes.
    """

    make: Callable[[], torchmetrics.Metric]
    higher_is_better: bool
    scale: float = 1.0
    unit: str = ""


@dataclass(frozen=True)
class Defaults:
    """Default hyper-parameters of a benchmark, the same for every method and preset.

    Args:
        epochs: The number of epochs.
        batch_size: The number of examples per step.
        lr: The learning rate.
        rho: The radius ρ of the perturbation.
        rho_grid: The radii to select from on validation data.
        weight_decay: The optimizer's weight decay.
        optimizer: The optimizer.
        schedule: The learning-rate schedule: ``"constant"``, ``"step"`` (by default halved halfway
            through training), ``"plateau"`` or ``"cosine"``.
        schedule_options: The schedule's options.
        average_last: The number of last epochs whose mean scores are reported; 0 to report the
            epoch with the best validation score.
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
    """A multi-task problem. To define your own, implement the four methods and set the attributes.

    No registration is needed: ``samo train my_module:MyBenchmark`` imports the class from
    ``my_module.py`` in the current directory or from an installed module. The arguments of its
    ``__init__``, if it has any, are set by ``--benchmark-option NAME=VALUE``.
    ``examples/bring_your_own.py`` is a complete benchmark in one file.

    A batch can be any object, since only `outputs` reads it: a tensor with labels, a graph, or (in
    multi-input problems) a mapping from tasks to batches. Training moves it to the device if it
    consists of tensors in tuples, lists or mappings, or has a method ``to``.

    Attributes:
        defaults: The default hyper-parameters, which the command line can override.
        tasks: The names of the tasks.
        metrics: The metrics of each task, by name. Tasks may have different metrics. The first
            metric of each task determines, on validation data, which epoch is reported.
        own: The name of the model's attribute that maps tasks to their task-specific modules. All
            other parameters are then shared, as in published implementations, which count
            everything but the heads as shared. If None, the autograd graph determines the
            partition: parameters that only one task depends on are task-specific.

    Example:
        >>> import samo.benchmarks
        >>> benchmark = samo.benchmarks.create("digits")
        >>> model = benchmark.model()
        >>> batch = next(iter(benchmark.batches("validation", ["left"], batch_size=16)))
        >>> losses = benchmark.losses(model, batch, ["left"])
        >>> losses["left"].shape
        torch.Size([])
    """

    defaults: ClassVar[Defaults] = Defaults(epochs=20, batch_size=64, lr=1e-3)
    tasks: tuple[str, ...]
    metrics: Mapping[str, Mapping[str, Metric]]
    own: ClassVar[str | None] = None

    @abstractmethod
    def model(self) -> nn.Module:
        """Creates a new model, initialised from torch's global generator."""

    @abstractmethod
    def batches(
        self,
        split: Split,
        tasks: Sequence[str],
        batch_size: int,
        generator: Generator | None = None,
    ) -> Iterable[Any]:
        """Returns the batches of a split, for instance a ``DataLoader``.

        Args:
            split: The split.
            tasks: The tasks that the batches are for. Each batch must have labels for at least one
                of them; data that only other tasks need can be left out.
            batch_size: The number of examples per batch (per task, in multi-input problems).
            generator: Shuffles anew at each iteration; None keeps the order. The order must not
                depend on any other randomness: a resumed run continues from the generator's state.

        Returns:
            A re-iterable; each iteration is an epoch.
        """

    @abstractmethod
    def outputs(
        self, model: nn.Module, batch: Any, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Evaluates the model on a batch.

        Args:
            model: The model.
            batch: One of the `batches`.
            tasks: The requested tasks; the heads of other tasks need not be evaluated.

        Returns:
            Predictions and targets by task. A task without labels in this batch is left out.
        """

    @abstractmethod
    def loss(self, task: str, prediction: Tensor, target: Tensor) -> Tensor:
        """Computes the loss of a task.

        Args:
            task: The task.
            prediction: The prediction that `outputs` returned.
            target: The target that `outputs` returned.

        Returns:
            The mean loss over the examples, a scalar.
        """

    def losses(self, model: nn.Module, batch: Any, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Computes the losses of the requested tasks: `outputs`, then `loss`.

        Args:
            model: The model.
            batch: One of the `batches`.
            tasks: The requested tasks.

        Returns:
            The losses by task.
        """
        outputs = self.outputs(model, batch, tasks)
        return {task: self.loss(task, *pair) for task, pair in outputs.items()}
