"""The benchmark that is made from one's own table."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Generator, Tensor, nn

from .._batches import TensorBatches
from .._benchmark import Benchmark, Defaults, Split
from ._inputs import encode
from ._labels import labels
from ._model import TabularMLP
from ._options import chosen_columns, declared_types, input_columns, markers
from ._split import divide
from ._summary import summary
from ._table import Table
from ._tasks import task

_LOG = logging.getLogger(__name__)


@final
class Tabular(Benchmark):
    """Your own table, CSV or Parquet: any columns as tasks, any of their labels missing.

    A task is a *regression* (mean squared error; R², MAE, RMSE), *binary* (cross-entropy; accuracy,
    AUROC, F1 of the second label in order) or *multi-class* (cross-entropy; accuracy, macro F1).
    Where `types` does not say which, two different labels are binary, texts and up to 20 different
    integers are multi-class, and other numbers are a regression. What was found is in `summary`,
    and logged.

    A label that is missing (an empty field, ``NA``, ``NaN``, null ..) takes no part in loss and
    metrics; a row without any label is left out. Numbers are standardised by the training rows'
    mean and standard deviation, inputs and labels alike (MAE and RMSE are in the column's own
    unit); a missing number becomes the mean, with a column beside it that tells so. Texts are
    embedded, a missing one as a category of its own, one that does not occur in training as zeros.
    Dates are days. Columns that tell nothing (constant, empty, counting the rows) are left out, and
    those that nearly every row has a text of its own in are refused. The network is a multilayer
    perceptron with a head for each task. A table of many rows trains faster in larger batches
    (``--batch-size``).

    Args:
        data: The file: CSV (separated by comma, semicolon, tab or bar; .gz, .bz2 and .zst are
            decompressed) with the names of the columns in its first line, or Parquet.
        tasks: The columns to predict, as a list or with commas between them.
        inputs: The columns to predict them from; all others if left out.
        ignore: Columns that are no inputs.
        types: The types of columns where they are to be others than those found:
            ``"regression"``, ``"binary"`` or ``"multi-class"`` for a task, ``"numeric"`` or
            ``"categorical"`` for an input.
        missing: What stands for a missing value, besides the customary names; a text, a number, or
            a list.
        split_column: The column that says of each row: train, validation (or val), or test. If it
            names no validation rows, a fifth of the training rows are. If left out, 60, 20 and 20 %
            of the rows are drawn, each class and each task in the same proportions.
        seed: The seed of the division. It is not the seed of a run: all runs see the same data.
        width: The width of the hidden layers.
        depth: Their number.

    Attributes:
        summary: What was found in the file, in a few lines.

    Raises:
        ValueError: If the file or an option is faulty: the message names file, column and row.
        OSError: If the file cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "houses.csv"
        >>> rows = (f"{7 * i % 50},{i % 3},{30 * i + 400},{i // 2 % 2}" for i in range(40))
        >>> _ = path.write_text(chr(10).join(["area,rooms,price,garden", *rows]))
        >>> houses = Tabular(data=path, tasks="price,garden")
        >>> list(houses.metrics["price"]), list(houses.metrics["garden"])
        (['R²', 'MAE', 'RMSE'], ['accuracy', 'AUROC', 'F1'])
        >>> numbers, categories, price, garden = next(iter(houses.batches("train", ["price"], 8)))
        >>> numbers.shape, price.dtype, garden.dtype
        (torch.Size([8, 2]), torch.float32, torch.int64)
    """

    defaults: ClassVar[Defaults] = Defaults(epochs=30, batch_size=64, lr=1e-3)

    def __init__(
        self,
        *,
        data: str | Path,
        tasks: str | Sequence[str],
        inputs: str | Sequence[str] | None = None,
        ignore: str | Sequence[str] = (),
        types: Mapping[str, str] | None = None,
        missing: str | float | Sequence[str | float] = (),
        split_column: str | None = None,
        seed: int = 0,
        width: int = 128,
        depth: int = 2,
    ) -> None:
        for name, value in {"width": width, "depth": depth}.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an integer of at least 1; found {value!r}.")
        self.data, self.inputs, self.ignore = data, inputs, ignore
        self.types, self.missing = types, missing
        self.split_column, self.seed = split_column, seed
        self.width, self.depth = width, depth
        table = Table(Path(data), markers(missing))
        self.tasks = tuple(chosen_columns(table, "tasks", tasks))
        if not self.tasks:
            raise ValueError("tasks must name at least one column.")
        names = input_columns(table, self.tasks, inputs, ignore, split_column)
        declared = declared_types(table, types, [*self.tasks, *names])
        found = [labels(table, name, declared.get(name)) for name in self.tasks]
        rows = divide(table, found, split_column, seed)
        encoded = encode(table, names, declared, rows["train"])
        self._kinds = {of.task: task(table, of, rows["train"]) for of in found}
        self.metrics = {name: kind.metrics for name, kind in self._kinds.items()}
        self._n_categories = encoded.n_categories
        targets = [kind.targets for kind in self._kinds.values()]
        self._data: dict[Split, tuple[Tensor, ...]] = {
            split: tuple(t[chosen] for t in (encoded.numbers, encoded.categories, *targets))
            for split, chosen in rows.items()
        }
        self.summary = summary(table, found, encoded, rows)
        _LOG.info(self.summary)

    def model(self) -> nn.Module:
        """Makes a multilayer perceptron with a head for each task.

        Returns:
            The model.
        """
        numbers, categories, *_ = self._data["train"]
        return TabularMLP(
            numbers.shape[1],
            categories.shape[1],
            self._n_categories,
            {name: kind.outputs for name, kind in self._kinds.items()},
            width=self.width,
            depth=self.depth,
        )

    def batches(
        self,
        split: Split,
        tasks: Sequence[str],
        batch_size: int,
        generator: Generator | None = None,
    ) -> TensorBatches:
        """Gives tuples of numbers, categories, and the targets of each task of the benchmark.

        Args:
            split: Which part of the data.
            tasks: The tasks that the batches are for: rows without a label of any are left out.
            batch_size: The number of rows.
            generator: Shuffles; None keeps the order.

        Returns:
            The batches.
        """
        tensors = self._data[split]
        wanted = torch.zeros(len(tensors[0]), dtype=torch.bool)
        for (name, kind), target in zip(self._kinds.items(), tensors[2:], strict=True):
            if name in tasks:
                wanted |= kind.labelled(target)
        if not wanted.all():
            tensors = tuple(tensor[wanted] for tensor in tensors)
        return TensorBatches(tensors, batch_size, generator)

    def outputs(
        self, model: nn.Module, batch: Any, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        """Evaluates the trunk, and the heads of the tasks that have labels.

        Args:
            model: The model.
            batch: Numbers, categories, and targets.
            tasks: The tasks that are asked for.

        Returns:
            Predictions (standardised, or logits) and targets of the labelled rows, by task; a task
            without labels is left out.
        """
        numbers, categories, *targets = batch
        known = {
            name: (target, kind.labelled(target))
            for (name, kind), target in zip(self._kinds.items(), targets, strict=True)
            if name in tasks
        }
        present = [name for name in tasks if known[name][1].any()]
        predictions = model(numbers, categories, present)
        return {
            name: (predictions[name][mask], target[mask])
            for name in present
            for target, mask in [known[name]]
        }

    def loss(self, task: str, prediction: Tensor, target: Tensor) -> Tensor:
        """Computes the mean loss of a task.

        Args:
            task: The task.
            prediction: Standardised numbers, or logits.
            target: Standardised numbers, or classes.

        Returns:
            The mean squared error, or the mean cross-entropy.
        """
        return self._kinds[task].loss(prediction, target)
