"""Eleven properties of molecules."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, final

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from .._benchmark import Benchmark, Defaults, Metric, Split
from .._checks import check_at_least
from .._errors import DataError
from .._metrics import lazy
from ..networks import MessagePassing, require_graph_extra
from ._files import read_molecules
from ._molecules import EDGE_FEATURES, NODE_FEATURES, TARGETS, MoleculeBatches

# Of 130,831 molecules, 10,000 are for validation and 10,000 for the test.
_HELD_OUT = 10_000 / 130_831
_FEWEST = 4


@final
class QM9(Benchmark):
    """Eleven properties of small organic molecules, from their geometry (regression).

    The set-up of Nash-MTL, FAMO, FairGrad and SAMO (arXiv:2507.07883, §6 and Table 11): PyTorch
    Geometric's example with a head for each property. Its graphs are complete; an atom has 11
    features, a pair of atoms its bond and its distance. U0, U, H and G are atomisation energies.
    10,000 molecules each are held out for validation and test, and proportionally fewer of a
    subset. Targets are standardised by mean and standard deviation over the training split; the
    loss is their mean squared error.

    Each task has two metrics. The first is the mean absolute error over the standard deviation,
    whose mean over the tasks is the "std. MAE" of DimeNet (arXiv:2003.03123); it determines the
    reported epoch (a mean of meV and Debye would be meaningless). The second is the mean absolute
    error in the papers' units.

    A batch is a tuple of graphs and standardised targets, shape ``[N, tasks]``.

    Args:
        data: The directory. Either PyTorch Geometric's, with ``raw/gdb9.sdf``,
            ``raw/gdb9.sdf.csv`` and ``raw/uncharacterized.txt`` (read without RDKit, to the same
            features), or one with a subset in ``qm9_3d.npz``; or the file of a subset.
        molecules: The number of molecules to use, drawn by `seed`; None for all.
        gap: Whether the gap between HOMO and LUMO is a twelfth task; papers leave it out.
        width: The width of the network.
        seed: The seed of the split. It is not the seed of a run: all runs see the same data.

    Raises:
        DataError: If a file is missing or invalid.
        ValueError: If an argument is out of its range.
        ImportError: If PyTorch Geometric is not installed.
    """

    defaults: ClassVar[Defaults] = Defaults(
        epochs=300,
        batch_size=120,
        lr=1e-3,
        rho=1e-5,
        rho_grid=(1e-5, 1e-4, 1e-3, 1e-2),
        schedule="plateau",
    )
    tasks = tuple(name for name in TARGETS if name != "gap")

    def __init__(
        self,
        *,
        data: str | Path,
        molecules: int | None = None,
        gap: bool = False,
        width: int = 64,
        seed: int = 0,
    ) -> None:
        check_at_least(1, width=width)
        check_at_least(0, seed=seed)
        require_graph_extra()
        self.data = data
        self.molecules = molecules
        self.gap = gap
        self.width = width
        self.seed = seed
        self.tasks = tuple(TARGETS) if gap else type(self).tasks
        found = read_molecules(data)
        used = len(found) if molecules is None else molecules
        if not _FEWEST <= used <= len(found):
            raise ValueError(
                f"{data} has {len(found)} molecules: at least {_FEWEST} are needed, and molecules "
                f"must be in {_FEWEST}..{len(found)}; found {molecules}."
            )
        columns = [list(TARGETS).index(task) for task in self.tasks]
        parts = split_molecules(len(found), used, seed)
        values = found.targets[:, columns]
        mean, std = values[parts["train"]].mean(0), values[parts["train"]].std(0)
        for task, spread in zip(self.tasks, std.tolist(), strict=True):
            if spread == 0:
                raise DataError(f"{data}: {task} has the same value for all training molecules.")
        make = lazy("torchmetrics", "MeanAbsoluteError")
        mae = partial(Metric, make, higher_is_better=False)
        self.metrics = {
            task: {
                "standardised MAE": mae(scale=100.0, unit="% of σ"),
                "MAE": mae(scale=spread, unit=TARGETS[task].unit),
            }
            for task, spread in zip(self.tasks, std.tolist(), strict=True)
        }
        targets = ((values - mean) / std).float()
        self._data = {
            split: partial(MoleculeBatches, found.take(chosen), targets[chosen])
            for split, chosen in parts.items()
        }

    def model(self) -> nn.Module:
        return MessagePassing(
            self.tasks,
            node_features=NODE_FEATURES,
            edge_features=EDGE_FEATURES,
            width=self.width,
        )

    def batches(
        self,
        split: Split,
        tasks: Sequence[str],  # noqa: ARG002
        batch_size: int,
        generator: Generator | None = None,
    ) -> MoleculeBatches:
        return self._data[split](batch_size, generator)

    def outputs(
        self, model: nn.Module, batch: Any, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        graphs, targets = batch
        predictions = model(graphs, tasks)
        return {task: (predictions[task], targets[:, self.tasks.index(task)]) for task in tasks}

    def loss(self, task: str, prediction: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002
        return F.mse_loss(prediction, target)


def split_molecules(n: int, used: int, seed: int) -> dict[Split, Tensor]:
    """Returns the indices of the molecules of each split, for `used` out of n molecules."""
    held_out = max(1, round(_HELD_OUT * used))
    order = torch.randperm(n, generator=Generator().manual_seed(seed))[:used]
    return {
        "test": order[:held_out],
        "validation": order[held_out : 2 * held_out],
        "train": order[2 * held_out :],
    }
