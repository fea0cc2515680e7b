"""The analyses of a run, and their files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import (
    SPSA,
    ExactGradient,
    LastLayers,
    LocalGradient,
    Perturbation,
    PreviousGradient,
    RandomDirection,
    analysis,
)
from ..analysis import Losses, Result
from ..records import read_json, write_json
from ..training import RunError, Trained, perturbation, to_device

ESTIMATORS: Mapping[str, Callable[[], LocalGradient]] = {
    "SPSA": SPSA,
    "SPSA, 8 samples": lambda: SPSA(samples=8),
    "last layers": LastLayers,
    "previous gradient": PreviousGradient,
    "random direction": RandomDirection,
}


@dataclass(frozen=True)
class Request:
    """The settings of an analysis.

    Attributes:
        split: The split of the data.
        batches: The number of batches; 0 for all.
        rho: The radius of sharpness; None for that of the benchmark, the same for all its runs.
        module: The submodule whose outputs are the features, with ``{task}`` for one per task; None
            for the trunk of the network.
        seed: The seed of the batches and of all random numbers.
        device: The device.
    """

    split: str
    batches: int
    rho: float | None
    module: str | None
    seed: int
    device: str


class Subject:
    """A trained model with its losses and batches.

    Args:
        run: The model.
        request: The settings.
        tick: Called at each batch.
    """

    def __init__(self, run: Trained, request: Request, tick: Callable[[], object]) -> None:
        self.run = run
        self.request = request
        self._tick = tick
        try:
            self.device = torch.device(request.device)
            self.model = run.model.to(self.device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise RunError(f"device {request.device!r} cannot be used: {reason}") from error
        self._generator = torch.Generator()
        split: Any = request.split
        self._batches = run.benchmark.batches(
            split, run.tasks, run.config.batch_size, self._generator
        )
        own = run.benchmark.own
        self.own = None if own is None else {t: getattr(self.model, own)[t] for t in run.tasks}

    @property
    def data(self) -> tuple[nn.Module, Losses, Iterable[Any], Sequence[str]]:
        """The arguments of every analysis."""
        return self.model, self.losses, self, self.run.tasks

    @property
    def rho(self) -> float:
        """The radius of sharpness."""
        return self.run.config.defaults.rho if self.request.rho is None else self.request.rho

    def __iter__(self) -> Iterator[Any]:
        self._generator.manual_seed(self.request.seed)  # the same batches each time
        for batch in islice(self._batches, self.request.batches or None):
            self._tick()
            yield to_device(batch, self.device)

    def losses(self, batch: Any, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Evaluates the losses of a batch."""
        return self.run.benchmark.losses(self.model, batch, tasks)

    def sizes(self, batch: Any) -> dict[str, int]:
        """Counts the examples of each task in a batch."""
        with torch.no_grad():
            outputs = self.run.benchmark.outputs(self.model, batch, self.run.tasks)
        return {task: len(target) for task, (_, target) in outputs.items()}

    def classes(self, task: str, batch: Any) -> Tensor:
        """Returns the classes of a batch's examples by one task."""
        with torch.no_grad():
            return self.run.benchmark.outputs(self.model, batch, [task])[task][1]


def _spectrum(of: Subject) -> dict[str, Result]:
    return {"spectrum": analysis.hessian_spectrum(*of.data, sizes=of.sizes, seed=of.request.seed)}


def _cosines(of: Subject) -> dict[str, Result]:
    """Computes the cosines at the parameters, and at the points perturbed as in the run."""
    if len(of.run.tasks) < 2:
        return {}
    config = of.run.config
    own_way, _ = perturbation(config.sharpness, config.rho, config.sharpness_options)
    perturbed = None if own_way is None else own_way.ascending
    ways = {"cosines": None} | ({"cosines-perturbed": perturbed} if perturbed else {})
    settings: dict[str, Any] = {"own": of.own, "sizes": of.sizes, "seed": of.request.seed}
    return {
        name: analysis.gradient_cosines(*of.data, perturbation=way, **settings)
        for name, way in ways.items()
    }


def _sharpness(of: Subject) -> dict[str, Result]:
    """Computes the sharpness along each task's own gradient, and along the mean gradient."""
    ways = {
        "sharpness": Perturbation(of.rho, alpha=0.0, local=ExactGradient()),
        "sharpness-global": Perturbation(of.rho, alpha=1.0),
    }
    return {
        name: analysis.sharpness(*of.data, perturbation=way, own=of.own, sizes=of.sizes)
        for name, way in ways.items()
    }


def _estimators(of: Subject) -> dict[str, Result]:
    if len(of.run.tasks) < 2:
        return {}
    made = {name: make() for name, make in ESTIMATORS.items()}
    quality = analysis.estimator_quality(
        *of.data, estimators=made, own=of.own, rho=of.rho, sizes=of.sizes, seed=of.request.seed
    )
    return {"estimators": quality}


def _landscape(of: Subject) -> dict[str, Result]:
    plane = analysis.random_plane(of.model, seed=of.request.seed)
    return {"landscape": analysis.landscape(*of.data, plane=plane, sizes=of.sizes)}


def _features(of: Subject) -> dict[str, Result]:
    """Labels the features by the classes of the first task that has classes, or by task."""
    module, seed = of.request.module, of.request.seed
    if module is None:
        if not hasattr(of.model, "trunk"):
            raise RunError(
                "give the submodule whose outputs are the features, for instance --module "
                "heads.{task}.0 for one per task."
            )
        module = "trunk"
    if "{task}" in module:
        by_task = {task: module.replace("{task}", task) for task in of.run.tasks}
        return {"features": analysis.features(*of.data, of=by_task, seed=seed)}
    batch = next(iter(of))
    for task in of.run.tasks:
        classes = partial(of.classes, task)
        target = classes(batch)
        if target.dim() == 1 and not target.is_floating_point():
            return {"features": analysis.features(*of.data, of=module, labels=classes, seed=seed)}
    raise RunError(
        "no task has a class for each example to label the clusters of features. Give submodules "
        "of the tasks, for instance --module heads.{task}.0."
    )


ANALYSES: Mapping[str, Callable[[Subject], dict[str, Result]]] = {
    "spectrum": _spectrum,
    "cosines": _cosines,
    "sharpness": _sharpness,
    "estimators": _estimators,
    "landscape": _landscape,
    "features": _features,
}
"""The analyses by name; each returns results by the names of their files."""


class Analyses:
    """The analyses of a run on disk: ``analysis/*.json``, with their settings in ``analysis.json``.

    Args:
        run: The directory of the run.
        trained: The trained model.
        request: The settings.
    """

    def __init__(self, run: Path, trained: Trained, request: Request) -> None:
        self.directory = run / "analysis"
        self._record = run / "analysis.json"
        self._wanted = {**asdict(request), "epoch": trained.epoch}
        del self._wanted["device"]
        self._made: dict[str, Any] = read_json(self._record) if self._record.exists() else {}
        if not isinstance(self._made, dict):
            raise RunError(f"{self._record} is damaged: delete it.")

    def has(self, name: str) -> bool:
        """Whether an analysis of the same weights and data exists."""
        made = self._made.get(name)
        if not isinstance(made, dict) or made.get("of") != self._wanted:
            return False
        return all((self.directory / f"{file}.json").exists() for file in made.get("files", ()))

    def keep(self, name: str, results: Mapping[str, Result]) -> None:
        """Writes an analysis."""
        for file, result in results.items():
            result.save(self.directory / f"{file}.json")
        self._made[name] = {"of": self._wanted, "files": list(results)}
        write_json(self._record, self._made)


def runs_below(path: Path) -> list[Path]:
    """Finds the runs in a directory, which may be a run itself; there must be one."""
    if (path / "config.json").exists() and not (path / "compare.json").exists():
        return [path]
    if not (runs := sorted(file.parent for file in path.rglob("checkpoint.pt"))):
        raise RunError(f"{path} holds no run with a checkpoint (`samo train .. --out {path}`).")
    return runs
