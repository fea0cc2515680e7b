"""A benchmark from the user's own table."""

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
from ._split import split_rows
from ._summary import summary
from ._table import TableFile
from ._tasks import make_task

_LOG = logging.getLogger(__name__)


@final
class Tabular(Benchmark):
    """Your own table, CSV or Parquet: any columns as tasks, with or without missing labels.

    A task is a *regression* (mean squared error; R², MAE, RMSE), *binary* (cross-entropy; accuracy,
    AUROC, F1 of the second label in order) or *multi-class* (cross-entropy; accuracy, macro F1).
    Unless `types` declares the type, two different labels are binary, strings and up to 20
    different integers are multi-class, and other numbers are a regression. The detected types are
    in `summary`, which is also logged.

    A missing label (an empty field, ``NA``, ``NaN``, null ..) does not count in loss and metrics; a
    row without any label is dropped. Numbers are standardised by mean and standard deviation of the
    training rows, inputs and labels alike (MAE and RMSE are in the column's unit); a missing number
    becomes the mean, and an additional column indicates it. Strings are embedded: a missing one as
    a separate category, one that does not occur in training as zeros. Dates are days. Uninformative
    columns (constant, empty, row counters) are dropped, and string columns in which nearly all
    values differ raise an error. The network is a multilayer perceptron with a head for each task.
    Tables with many rows train faster in larger batches (``--batch-size``).

    A batch is a tuple of numbers, categories, and the targets of every task; rows without a label
    of a requested task are left out.

    Args:
        data: The file: CSV (separated by comma, semicolon, tab or bar; .gz, .bz2 and .zst are
            decompressed) with the names of the columns in its first line, or Parquet.
        tasks: The columns to predict, as a list or separated by commas.
        inputs: The input columns; all others if left out.
        ignore: Columns that are not inputs.
        types: The types of columns that should differ from the detected ones: ``"regression"``,
            ``"binary"`` or ``"multi-class"`` for a task, ``"numeric"`` or ``"categorical"`` for an
            input.
        missing: Further markers of a missing value: a string, a number, or a list of them.
        split_column: The column with each row's split: train, validation (or val), or test. Without
            validation rows, a fifth of the training rows become the validation split. If left out,
            60, 20 and 20 % of the rows are drawn, stratified by class and task.
        seed: The seed of the split. It is not the seed of a run: all runs see the same data.
        width: The width of the hidden layers.
        depth: The number of hidden layers.

    Attributes:
        summary: The types of the columns and their use, in a few lines.

    Raises:
        ValueError: If the file or an option is invalid: the message names file, column and row.
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
        table = TableFile(Path(data), markers(missing))
        self.tasks = tuple(chosen_columns(table, "tasks", tasks))
        if not self.tasks:
            raise ValueError("tasks must name at least one column.")
        names = input_columns(table, self.tasks, inputs, ignore, split_column)
        declared = declared_types(table, types, [*self.tasks, *names])
        found = [labels(table, name, declared.get(name)) for name in self.tasks]
        rows = split_rows(table, found, split_column, seed)
        encoded = encode(table, names, declared, rows["train"])
        self._kinds = {of.task: make_task(table, of, rows["train"]) for of in found}
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
        return self._kinds[task].loss(prediction, target)
