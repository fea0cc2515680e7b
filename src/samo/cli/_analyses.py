"""What is analysed of a run, and what is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
)
from ..records import read_json, write_json
from ..training import RunError, Trained, perturbation, to_device

if TYPE_CHECKING:
    from ..analysis._data import Losses
    from ..analysis._results import Result

ESTIMATORS: Mapping[str, Callable[[], LocalGradient]] = {
    "SPSA": SPSA,
    "SPSA, 8 samples": lambda: SPSA(samples=8),
    "last layers": LastLayers,
    "previous gradient": PreviousGradient,
    "random direction": RandomDirection,
}


@dataclass(frozen=True)
class Request:
    """What an analysis depends on, beside the run.

    Attributes:
        split: The part of the data.
        batches: How many batches; 0 for all.
        rho: The radius of sharpness; None for the benchmark's own, the same for all its runs.
        module: The submodule whose outputs are the features, ``{task}`` in it standing for each
            task; None for the trunk of a network that has one.
        seed: The seed of the choice of batches, and of all that is random.
        device: Where to.
    """

    split: str
    batches: int
    rho: float | None
    module: str | None
    seed: int
    device: str


class Subject:
    """A trained model with the losses and batches to analyse it on.

    Args:
        run: The model.
        request: What to analyse it on.
        tick: Is called at each batch.
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
        self._batches = run.benchmark.batches(
            self._split, run.tasks, run.config.batch_size, self._generator
        )
        own = run.benchmark.own
        self.own = None if own is None else {t: getattr(self.model, own)[t] for t in run.tasks}

    @property
    def _split(self) -> Any:
        return self.request.split

    @property
    def data(self) -> tuple[nn.Module, Losses, Iterable[Any], Sequence[str]]:
        """What every analysis is called with."""
        return self.model, self.losses, self, self.run.tasks

    @property
    def rho(self) -> float:
        """The radius to measure sharpness at."""
        return self.run.config.defaults.rho if self.request.rho is None else self.request.rho

    def __iter__(self) -> Iterator[Any]:
        self._generator.manual_seed(self.request.seed)  # the same batches each time
        for batch in islice(self._batches, self.request.batches or None):
            self._tick()
            yield to_device(batch, self.device)

    def losses(self, batch: Any, tasks: Sequence[str]) -> dict[str, Tensor]:
        """Evaluates a batch's losses."""
        return self.run.benchmark.losses(self.model, batch, tasks)

    def sizes(self, batch: Any) -> dict[str, int]:
        """Counts a batch's examples of each task."""
        with torch.no_grad():
            outputs = self.run.benchmark.outputs(self.model, batch, self.run.tasks)
        return {task: len(target) for task, (_, target) in outputs.items()}

    def labels(self, task: str) -> Callable[[Any], Tensor]:
        """The classes of a batch's examples, by one task."""

        def classes(batch: Any) -> Tensor:
            with torch.no_grad():
                return self.run.benchmark.outputs(self.model, batch, [task])[task][1]

        return classes


def _spectrum(of: Subject) -> dict[str, Result]:
    from ..analysis import hessian_spectrum

    return {"spectrum": hessian_spectrum(*of.data, sizes=of.sizes, seed=of.request.seed)}


def _cosines(of: Subject) -> dict[str, Result]:
    """At the parameters, and at the points that the run itself perturbs them to."""
    from ..analysis import gradient_cosines

    if len(of.run.tasks) < 2:
        return {}
    config, found = of.run.config, {}
    own_way, _ = perturbation(config.sharpness, config.rho, config.sharpness_options)
    for name, at in {"cosines": None, "cosines-perturbed": own_way}.items():
        if at is not None or name == "cosines":
            found[name] = gradient_cosines(
                *of.data, perturbation=at, own=of.own, sizes=of.sizes, seed=of.request.seed
            )
    return {**found}


def _sharpness(of: Subject) -> dict[str, Result]:
    """Along each task's own gradient, and along the mean gradient."""
    from ..analysis import sharpness

    ways = {
        "sharpness": Perturbation(of.rho, alpha=0.0, local=ExactGradient()),
        "sharpness-global": Perturbation(of.rho, alpha=1.0),
    }
    return {
        name: sharpness(*of.data, perturbation=way, own=of.own, sizes=of.sizes)
        for name, way in ways.items()
    }


def _estimators(of: Subject) -> dict[str, Result]:
    from ..analysis import estimator_quality

    if len(of.run.tasks) < 2:
        return {}
    made = {name: make() for name, make in ESTIMATORS.items()}
    quality = estimator_quality(
        *of.data, estimators=made, own=of.own, rho=of.rho, sizes=of.sizes, seed=of.request.seed
    )
    return {"estimators": quality}


def _landscape(of: Subject) -> dict[str, Result]:
    from ..analysis import landscape, random_plane

    plane = random_plane(of.model, seed=of.request.seed)
    return {"landscape": landscape(*of.data, plane=plane, sizes=of.sizes)}


def _features(of: Subject) -> dict[str, Result]:
    """By class, of the first task that has classes; or by task, of modules of their own."""
    from ..analysis import features

    module, seed = of.request.module, of.request.seed
    if module is None:
        if not hasattr(of.model, "trunk"):
            raise RunError(
                "name the submodule whose outputs are the features: --module heads.{task}.0, say, "
                "for one of each task."
            )
        module = "trunk"
    if "{task}" in module:
        by_task = {task: module.replace("{task}", task) for task in of.run.tasks}
        return {"features": features(*of.data, of=by_task, seed=seed)}
    batch = next(iter(of))
    for task in of.run.tasks:
        classes = of.labels(task)
        target = classes(batch)
        if target.dim() == 1 and not target.is_floating_point():
            return {"features": features(*of.data, of=module, labels=classes, seed=seed)}
    raise RunError(
        "no task has a class for each example, to tell clusters of features apart by. Name "
        "submodules of the tasks: --module heads.{task}.0, say."
    )


ANALYSES: Mapping[str, Callable[[Subject], dict[str, Result]]] = {
    "spectrum": _spectrum,
    "cosines": _cosines,
    "sharpness": _sharpness,
    "estimators": _estimators,
    "landscape": _landscape,
    "features": _features,
}
"""What can be analysed, and how: results by the names of their files."""


class Analyses:
    """The analyses of a run on disk: ``analysis/*.json``, and in ``analysis.json`` what of.

    Args:
        run: The run's directory.
        trained: What was trained there.
        request: What to analyse it on.
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
        """Whether an analysis is there, of the same weights and data."""
        made = self._made.get(name)
        if not isinstance(made, dict) or made.get("of") != self._wanted:
            return False
        return all((self.directory / f"{file}.json").exists() for file in made.get("files", ()))

    def keep(self, name: str, results: Mapping[str, Result]) -> None:
        """Writes an analysis down."""
        for file, result in results.items():
            result.save(self.directory / f"{file}.json")
        self._made[name] = {"of": self._wanted, "files": list(results)}
        write_json(self._record, self._made)


def runs_below(path: Path) -> list[Path]:
    """Finds the runs in a directory.

    Args:
        path: A run's directory, or one with runs below.

    Returns:
        The runs' directories.

    Raises:
        RunError: If there is none.
    """
    if (path / "config.json").exists() and not (path / "compare.json").exists():
        return [path]
    found: Iterable[Path] = path.rglob("checkpoint.pt")
    if not (runs := sorted(file.parent for file in found)):
        raise RunError(f"{path} holds no run with a checkpoint (`samo train .. --out {path}`).")
    return runs
