"""State of a run: model, engine, optimizer, and everything else saved in a checkpoint."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from .. import Engine, StepResult, aggregation, benchmarks
from .._names import unknown
from ..analysis import StepMeans
from ..benchmarks import DataError
from ..records import RunError
from ..records.schema import Epoch, validated
from ._averaging import averaged_model, recompute_statistics
from ._config import RunConfig
from ._errors import as_run_error
from ._evaluate import Scores, average, evaluate, to_device
from ._memory import PeakMemory
from ._presets import perturbation
from ._schedule import SCHEDULES, advance
from ._seeding import random_state, set_random_state, undisturbed

# Evaluation builds no graph, so larger batches fit.
_EVALUATION_BATCH = 4

Record = dict[str, Any]
"""Reproducible measurements of an epoch (see `samo.records.schema.Epoch`)."""


@dataclass(frozen=True)
class Progress:
    """Progress of a run: `step` of `steps` (None if unknown) in `epoch` of `epochs`.

    `record` has the measurements of the epoch once it has ended.
    """

    epoch: int
    epochs: int
    step: int
    steps: int | None
    record: Record | None = None


Watch = Callable[[Progress], None]


class Run:
    """A run, new or restored from a checkpoint.

    `models` has the models that are scored, by the names of their weights: ``"raw"`` for the one
    that is trained, ``"ema"`` for the average of its weights.

    Seed the global generators before you construct it.

    Args:
        config: Its configuration.

    Raises:
        RunError: If the benchmark, the tasks, the method or the device is not available.
    """

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.device = _device(config.device)
        self._memory = PeakMemory(self.device)
        self.benchmark = made_benchmark(config)
        self.tasks = chosen_tasks(self.benchmark, config.tasks)
        self.model = _model(self.benchmark).to(self.device)
        self.models = {"raw": self.model}
        self.averaged = averaged_model(self.model, config.ema) if config.ema else None
        if self.averaged is not None:
            self.models["ema"] = self.averaged.module
        self.engine = make_engine(config, self.model, self.tasks, self.benchmark.own)
        self.optimizer = _optimizer(config, self.model, self.engine.aggregator)
        schedule: Any = config.schedule_options
        self.scheduler = SCHEDULES[config.schedule].make(self.optimizer, config.epochs, **schedule)
        self.generator = Generator().manual_seed(config.seed)
        self.training_data = self.benchmark.batches(
            "train", self.tasks, config.batch_size, self.generator
        )
        self.history: list[Record] = []
        self.timing: list[dict[str, float]] = []
        self.best: dict[str, dict[str, Any]] = {}

    @property
    def epoch(self) -> int:
        """The number of complete epochs."""
        return len(self.history)

    def train_epoch(self, watch: Watch | None = None) -> None:
        """Trains for an epoch and evaluates; appends to `history` and `timing`."""
        begin = time.perf_counter()
        steps = len(self.training_data) if isinstance(self.training_data, Sized) else None
        durations: list[float] = []
        updates: list[float] = []
        means = StepMeans()
        self.model.train()
        for batch in self.training_data:
            start = self._now()
            result = self._step(to_device(batch, self.device))
            durations.append(1e3 * (self._now() - start))
            if self.averaged is not None:
                start = self._now()
                self.averaged.update_parameters(self.model)
                updates.append(1e3 * (self._now() - start))
            means.add(result)
            if watch:
                watch(Progress(self.epoch + 1, self.config.epochs, len(durations), steps))
        self.engine.epoch_ended()
        self._complete(means.take())
        timing = {"epoch_s": time.perf_counter() - begin, "step_ms": statistics.median(durations)}
        if updates:
            timing["ema_ms"] = statistics.median(updates)
        if (peak := self._memory.megabytes()) is not None:
            timing["peak_memory_mb"] = peak
        self.timing.append(timing)

    def evaluate(
        self, split: benchmarks.Split, weights: str = "raw", limit: int | None = None
    ) -> tuple[Scores, int]:
        """Evaluates one of `models` on a split, or on its first `limit` batches."""
        size = _EVALUATION_BATCH * self.config.batch_size
        batches = self.benchmark.batches(split, self.tasks, size)
        model = self.models[weights]
        return evaluate(self.benchmark, model, self.tasks, batches, self.device, limit)

    def state_dict(self) -> dict[str, Any]:
        """Returns everything needed to continue bit for bit, as tensors and plain values."""
        return {
            "config": self.config.plain(),
            "models": {name: model.state_dict() for name, model in self.models.items()},
            "updates": None if self.averaged is None else self.averaged.n_averaged,
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "engine": self.engine.state_dict(),
            "generator": self.generator.get_state(),
            "random": random_state(),
            "history": self.history,
            "timing": self.timing,
            "best": self.best,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state that `state_dict` returned."""
        for name, model in self.models.items():
            model.load_state_dict(state["models"][name])
        if self.averaged is not None:
            self.averaged.n_averaged.copy_(state["updates"])
        for name in ("optimizer", "scheduler", "engine"):
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"])
        self.history = state["history"]
        self.timing = state["timing"]
        self.best = state["best"]
        set_random_state(state["random"])

    def _step(self, batch: Any) -> StepResult:
        def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
            return self.benchmark.losses(self.model, batch, tasks)

        self.optimizer.zero_grad()
        result = self.engine.backward(losses)
        if self.config.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        if self.engine.needs_losses_after_step:
            with torch.no_grad():
                self.engine.optimizer_stepped(losses(self.tasks))
        return result

    def _complete(self, steps: Mapping[str, float]) -> None:
        """Evaluates all models at the end of an epoch, and advances the schedule."""
        epoch = self.epoch + 1
        record: Record = {"epoch": epoch, "lr": self.optimizer.param_groups[0]["lr"]}
        record |= {**self._scores(epoch, "raw"), "steps": steps}
        if self.averaged is not None:
            # The raw weights are those of a run without averaging.
            with undisturbed():
                batches = self.benchmark.batches("train", self.tasks, self.config.batch_size)
                model = self.averaged.module
                recompute_statistics(self.benchmark, model, self.tasks, batches, self.device)
                record["ema"] = self._scores(epoch, "ema")
        self.history.append(validated(Epoch, record).plain())
        advance(self.scheduler, record["score"])

    def _scores(self, epoch: int, weights: str) -> Record:
        """Evaluates a model, and keeps a copy of its weights if they are the best so far."""
        # The training score uses as many batches as validation: enough to show the gap, at the same
        # cost. Test data is never used for selection.
        validation, n_batches = self.evaluate("validation", weights)
        fitted, _ = self.evaluate("train", weights, limit=n_batches)
        score = average(self.benchmark, validation)
        found = {"score": score, "train": fitted, "validation": validation}
        if epoch > self.config.epochs - self.config.average_last:
            found["test"], _ = self.evaluate("test", weights)
        if weights not in self.best or score > self.best[weights]["score"]:
            state = self.models[weights].state_dict()
            copy = {name: value.clone() for name, value in state.items()}
            self.best[weights] = {"epoch": epoch, "score": score, "model": copy}
        return found

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def made_benchmark(config: RunConfig) -> benchmarks.Benchmark:
    """Creates the benchmark of a run; raises RunError."""
    options: Any = config.benchmark_options
    with as_run_error(ValueError, OSError, ImportError, of=f"benchmark {config.benchmark!r}"):
        return benchmarks.create(config.benchmark, **options)


def chosen_tasks(benchmark: benchmarks.Benchmark, chosen: Sequence[str] | None) -> tuple[str, ...]:
    """Returns the tasks to train, all if `chosen` is None; raises RunError."""
    tasks = benchmark.tasks if chosen is None else tuple(chosen)
    for task in tasks:
        if task not in benchmark.tasks:
            raise RunError(unknown("task", task, benchmark.tasks))
    return tasks


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"device {name!r} cannot be used: {reason}") from error
    return device


def _model(benchmark: benchmarks.Benchmark) -> nn.Module:
    with as_run_error(DataError):  # e.g. a missing file of weights
        return benchmark.model()


def make_engine(
    config: RunConfig, model: nn.Module, tasks: Sequence[str], own: str | None = None
) -> Engine:
    """Creates the engine of a run; raises RunError.

    Args:
        config: The run.
        model: The model.
        tasks: The tasks.
        own: The attribute of the model that has the tasks' own modules, if there is one.

    Returns:
        The engine.
    """
    options: Any = config.method_options
    with as_run_error(ValueError, TypeError, ImportError):
        aggregator = aggregation.create(config.method, len(tasks), **options)
    perturb, decompose = perturbation(config.sharpness, config.rho, config.sharpness_options)
    with as_run_error(ValueError):  # e.g. a level that the method or preset does not have
        return Engine(
            model,
            tasks,
            aggregator=aggregator,
            perturbation=perturb,
            decompose=decompose,
            own=None if own is None else {task: getattr(model, own)[task] for task in tasks},
            seed=config.seed,
            level=config.level,
        )


def _optimizer(config: RunConfig, model: nn.Module, method: nn.Module) -> Optimizer:
    """Creates the optimizer; the method's own parameters have no weight decay."""
    groups: list[dict[str, Any]] = [
        {"params": list(model.parameters()), "weight_decay": config.weight_decay}
    ]
    if own := list(method.parameters()):
        groups.append({"params": own, "weight_decay": 0.0})
    if config.optimizer == "sgd":
        return SGD(groups, lr=config.lr, momentum=0.9)
    return (Adam if config.optimizer == "adam" else AdamW)(groups, lr=config.lr)
