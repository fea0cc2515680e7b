"""The engine: sharpness-aware multi-task gradients instead of ``loss.backward()``."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed import ProcessGroup
from torchjd.aggregation import Aggregator, Weighting
from torchjd.scalarization import Scalarizer

from samo._citation import bibtex
from samo._errors import NonFiniteError
from samo.aggregation import create, method_of
from samo.aggregation._combiner import Combiner, WeightsFirst, combiner
from samo.distributed._world import check_ranks, placement_of, ranks_of, unwrapped
from samo.engine._partition import Declared, Partition
from samo.engine._result import StepResult
from samo.engine._rows import Scale
from samo.engine._setting import Setting
from samo.engine._state import captured, restored
from samo.engine._step import Step
from samo.model._closure import BatchSize, Losses, closures_of, sizes_of
from samo.model._compiled import keep_saved_tensors
from samo.model._guarded import devices_of
from samo.model._modes import confined
from samo.model._random import Streams
from samo.model._trace import Tracer
from samo.perturbations import Stateful
from samo.perturbations._perturbation import Perturbation
from samo.tensors._workspace import Workspace


class Engine:
    r"""Replaces ``loss.backward()`` by a sharpness-aware multi-task step.

    For each task i, the loss is evaluated at a perturbed point, and the gradients found there are
    aggregated:

    .. math::
        g_i = \nabla l_i(\theta + \varepsilon_i, \varphi_i + \eta_i), \qquad
        \theta \text{ gets } A(g_1, \dots, g_K), \quad \varphi_i \text{ gets its part of } g_i

    with ε_i and η_i as `Perturbation` says, θ the shared parameters, φ_i the task's own and A the
    aggregator. For a scalarizer S, A is the sum with the weights :math:`w_i = \partial S / \partial
    l_i` at the natural losses; they apply to the own parameters as well, and S's own parameters get
    their gradient. Decomposed aggregation (F-MTL, arXiv 2211.13723):
    :math:`A(\nabla l_1, \dots) + A(g_1 - \nabla l_1, \dots)`, each by a copy of A with a state of
    its own; for methods whose weights are known before the gradients, the two sums make one. A
    method of the gradients that needs the losses too is told them, and may say what the own
    parameters are to minimise (`samo.aggregation.SeesLosses`).

    Args:
        model: The model. Its buffers, and the random numbers that its modules draw, are guarded.
        tasks: The names of the K tasks.
        aggregator: A method's name (see `samo.aggregation.available`), or any TorchJD
            ``Aggregator``, ``Weighting[PSDMatrix]`` or ``Scalarizer``.
        perturbation: How to perturb; None for plain multi-task learning.
        decompose: Whether to aggregate loss gradients and flat gradients apart.
        shared: Parameters or modules that are shared.
        own: Parameters or modules that are one task's own, by task. What is declared neither here
            nor in ``shared`` is found from the autograd graph at the first step; where only ``own``
            is declared, all else is shared.
        seed: The seed of the engine's own random numbers; the global ones are never seeded. It
            must be the same on all ranks.
        process_group: The processes that take each step together, all from the same parameters, on
            the union of their batches; the default group where ``torch.distributed`` is
            initialised, before the first step at the latest. The model may be wrapped in
            ``DistributedDataParallel`` (give the engine the wrapper) or divided by ``fully_shard``.
        sync_perturbation: Whether all ranks perturb along the gradient of the whole batch, as one
            process would; else each perturbs along that of its own batch (m-sharpness: arXiv
            2010.01412, §4.1), which costs less traffic and is no approximation of the other.
        gradient_dtype: What the K × m matrix of task gradients is stored in, where the method needs
            one; None for the parameters' dtype. ``torch.bfloat16`` halves its memory, and rounds
            each entry by up to 2⁻⁸ of itself. All sums are of the parameters' dtype or wider.

    Attributes:
        model: The model.
        tasks: The names of the tasks.
        aggregator: The TorchJD object; give its ``parameters()`` to the optimizer.
        perturbation: How to perturb.
        decompose: Whether the aggregation is decomposed.
        sync_perturbation: Whether all ranks perturb along one gradient.

    Raises:
        TypeError: If an argument is of a wrong kind.
        ValueError: If tasks are missing or repeated, the aggregator is unknown or made for another
            number of tasks, ``decompose`` has no perturbation to decompose, or the declared
            partition is faulty (`PartitionError`).

    Example:
        >>> import samo, torch
        >>> model = torch.nn.ModuleDict({n: torch.nn.Linear(3, 3) for n in ("trunk", "a", "b")})
        >>> engine = samo.SAMO(model, tasks=["a", "b"], aggregator="ls", rho=0.05)
        >>> x = torch.ones(4, 3)
        >>> def losses(tasks):
        ...     h = model["trunk"](x).tanh()
        ...     return {task: model[task](h).square().mean() for task in tasks}
        >>> result = engine.backward(losses)
        >>> sorted(result.losses), model["trunk"].weight.grad.shape
        (['a', 'b'], torch.Size([3, 3]))
    """

    def __init__(
        self,
        model: nn.Module,
        tasks: Sequence[str],
        *,
        aggregator: str | Aggregator | Weighting[Any] | Scalarizer,
        perturbation: Perturbation | None = None,
        decompose: bool = False,
        shared: Declared | None = None,
        own: Mapping[str, Declared] | None = None,
        seed: int = 0,
        process_group: ProcessGroup | None = None,
        sync_perturbation: bool = True,
        gradient_dtype: torch.dtype | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module; found {type(model).__name__}.")
        if perturbation is not None and not isinstance(perturbation, Perturbation):
            raise TypeError(
                f"perturbation must be a samo.Perturbation or None; "
                f"found {type(perturbation).__name__}."
            )
        if decompose and perturbation is None:
            raise ValueError(
                "decompose=True needs a perturbation: without one there are no flat gradients."
            )
        if not isinstance(seed, int) or seed < 0:
            raise ValueError(f"seed must be a non-negative integer; found {seed!r}.")
        if gradient_dtype is not None and not (
            isinstance(gradient_dtype, torch.dtype) and gradient_dtype.is_floating_point
        ):
            raise ValueError(
                f"gradient_dtype must be a floating-point torch.dtype or None; "
                f"found {gradient_dtype!r}."
            )
        self.model = model
        self.tasks = _checked_tasks(tasks)
        if perturbation is not None and isinstance(perturbation.local, Stateful):
            # What it knows is this engine's alone.
            perturbation = replace(perturbation, local=copy.deepcopy(perturbation.local))
        self.perturbation = perturbation
        self.decompose = decompose
        n_tasks = len(self.tasks)
        self.aggregator = create(aggregator, n_tasks) if isinstance(aggregator, str) else aggregator
        combining = combiner(self.aggregator, n_tasks)
        flat: Combiner | None = None
        if decompose and not isinstance(combining, WeightsFirst):
            # What the optimizer trains is one and the same for both.
            learnt = {id(p): p for p in self.aggregator.parameters()}
            flat = combiner(copy.deepcopy(self.aggregator, learnt), n_tasks)
        keep_saved_tensors()
        self._process_group = process_group
        ranks = ranks_of(model, self.tasks, process_group)
        self.sync_perturbation = sync_perturbation
        self._unwrapped = unwrapped(model)
        self._checked = False
        self._sizes: dict[str, float] = {}
        placement = placement_of(
            model, ranks, combining, perturbation, sync_perturbation=sync_perturbation
        )
        self._setting = Setting(
            model=self._unwrapped,
            tasks=self.tasks,
            perturbation=perturbation,
            combiner=combining,
            flat_combiner=flat,
            partition=Partition(self._unwrapped, self.tasks, shared, own),
            streams=Streams(seed),
            tracer=Tracer(self._unwrapped),
            workspace=Workspace(placement.spread, gradient_dtype),
            ranks=ranks,
            placement=placement,
            sync_perturbation=sync_perturbation,
        )

    def backward(
        self,
        losses: Losses | Sequence[Losses],
        *,
        batch_size: BatchSize | Sequence[BatchSize] | None = None,
        grad_scaler: GradScaler | None = None,
    ) -> StepResult:
        """Evaluates the losses and adds the aggregated gradients to the parameters' ``.grad``.

        Args:
            losses: Maps the names of the tasks that it is asked for to their losses, scalar
                tensors. It is called several times a step, with all tasks or with one, and must
                evaluate the same batch each time. Tasks that it leaves out at first take no part in
                the step. A list of closures stands for micro-batches: each is perturbed along its
                own gradient (m-SAM), and the task gradients are averaged before they are
                aggregated, once.
            batch_size: The number of samples that the losses are means over, where this differs
                between the ranks or between the micro-batches: means over these are weighted by
                it. It is a number, or one by task (left out: 1); a list of these for micro-batches.
                With 0, a task's loss does not count. Left out, all losses count the same.
            grad_scaler: The scaler of fp16 training: gradients are then scaled, as those of
                ``scaler.scale(loss).backward()`` are.

        Returns:
            What the step saw.

        Raises:
            TypeError: If ``losses`` is not a function (or functions), or returns no mapping.
            ValueError: If it returns other tasks than asked, a loss that is not a scalar or has no
                graph, if a gradient is sparse or complex, or if the partition cannot be found
                (`PartitionError`).
            NonFiniteError: If a loss or gradient is not finite. With a ``grad_scaler`` the result
                says ``overflowed`` instead.

        After any exception, parameters, buffers and the global random state are as one natural pass
        leaves them, ``.grad`` is untouched, and a method that learns from the losses has learnt
        nothing.
        """
        scale = Scale(self._factor(grad_scaler))
        device_types = {"cpu", *(device.type for device in devices_of(self.model))}
        self._join()
        ranks, placement = self._setting.ranks, self._setting.placement
        checked = closures_of(losses)
        sizes = sizes_of(batch_size, len(checked), self.tasks)
        with confined(checked, device_types) as inside:
            closures = [placement.guarded(closure) for closure in inside]
            step = Step(self._setting, closures, scale, sizes)
            try:
                with ranks.together():
                    self._check_ranks()
                    placement.start()
                    step.gather()
                    step.aggregate()
                    step.amplify()
            except BaseException as error:
                step.forget()
                scaled = grad_scaler is not None and grad_scaler.is_enabled()
                if not (scaled and isinstance(error, NonFiniteError)):
                    raise
                self._overflow()
                return self._result(step, overflowed=True)
            step.write()
            self._sizes = step.sizes
            return self._result(step)

    @property
    def needs_losses_after_step(self) -> bool:
        """Whether the method learns from the losses after the optimizer's step (as FAMO does)."""
        return hasattr(self.aggregator, "update")

    def optimizer_stepped(self, losses: Mapping[str, Tensor]) -> None:
        """Tells a method that needs it (`needs_losses_after_step`) what the step has come to.

        Args:
            losses: The losses on the same batch, after the optimizer's step, by task. All ranks
                must tell theirs.

        Raises:
            ValueError: If there is none, or one of an unknown task, and the method needs them.
        """
        update = getattr(self.aggregator, "update", None)
        method = self._setting.combiner
        if update is None or method.last is None:
            return
        ranks, sizes = self._setting.ranks, self._sizes
        with ranks.together():
            here = {task: losses[task] for task in self.tasks if task in losses}
            agreed = ranks.agree(here, {t: sizes.get(t, 1.0) for t in here}, news=False)
            if not agreed.means or len(here) < len(losses):
                raise ValueError(
                    f"losses must map some of the tasks {list(self.tasks)} to their losses; "
                    f"found {list(losses)}."
                )
        values = torch.stack(list(agreed.means.values())).to(method.last)
        update(method.filled(values, [self.tasks.index(task) for task in agreed.means]))

    def epoch_ended(self) -> None:
        """Tells a method that counts epochs (DWA) that one has ended; others don't mind."""
        step = getattr(self.aggregator, "step", None)
        if callable(step):
            step()

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to continue bit for bit, but for the model and the optimizer.

        Returns:
            Tensors and plain values, which ``torch.load(.., weights_only=True)`` reads.
        """
        return captured(self._setting, self.aggregator, self._configuration())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continues from what `state_dict` gave, in an engine of the same configuration.

        Args:
            state: The state.

        Raises:
            ValueError: If the state is of another configuration, or of a model with other
                parameters; nothing is changed then.
        """
        restored(self._setting, self.aggregator, self._configuration(), state)
        self._checked = False

    def citation(self) -> str:
        """The BibTeX entries of what is in use: perturbation, estimator, method and library."""
        keys: list[str] = []
        if (perturbation := self.perturbation) is not None:
            keys += ["ban2025samo", "foret2021sam"]
            keys += ["kwon2021asam"] if perturbation.adaptive else []
            keys += perturbation.estimator.references if perturbation.estimator else []
            keys += ["phan2022fmtl"] if self.decompose else []
        method = method_of(self.aggregator)
        keys += [] if method is None else method.references
        return bibtex(dict.fromkeys([*keys, "quinton2024jacobian"]))

    def __repr__(self) -> str:
        shown = self._configuration()
        if (ranks := self._setting.ranks.size) > 1:
            shown |= {"ranks": repr(ranks), "sync_perturbation": repr(self.sync_perturbation)}
        parts = ", ".join(f"{key}={value}" for key, value in shown.items())
        return f"Engine({parts})"

    def _configuration(self) -> dict[str, str]:
        """What must agree for a state to be loaded."""
        return {
            "tasks": repr(list(self.tasks)),
            "aggregator": _plain(self.aggregator),
            "perturbation": _plain(self.perturbation),
            "decompose": repr(self.decompose),
        }

    def _result(self, step: Step, *, overflowed: bool = False) -> StepResult:
        """What a step saw; of one that has overflowed, the losses."""
        return StepResult(
            step.losses.values(),
            None if overflowed else step.perturbed.values() or None,
            None if overflowed else step.aggregation.weights,
            None if overflowed else step.aggregation.gramian,
            overflowed=overflowed,
            ranks=self._setting.ranks.size,
            sync_perturbation=self.sync_perturbation,
        )

    def _join(self) -> None:
        """Takes in the ranks of a default group that was initialised after the engine was made."""
        setting = self._setting
        if setting.ranks.size > 1:
            return
        ranks = ranks_of(self.model, self.tasks, self._process_group)
        if ranks.size > 1:
            sync = self.sync_perturbation
            placement = placement_of(
                self.model, ranks, setting.combiner, self.perturbation, sync_perturbation=sync
            )
            self._setting = replace(setting, ranks=ranks, placement=placement)
            self._checked = False

    def _check_ranks(self) -> None:
        """Makes sure, before the first step, that all ranks start from the same place."""
        if self._checked:
            return
        facts = {**self._configuration(), "sync_perturbation": repr(self.sync_perturbation)}
        check_ranks(self._setting.ranks, self._unwrapped, self._setting.streams, facts)
        self._checked = True

    def _factor(self, grad_scaler: GradScaler | None) -> Tensor | None:
        """The factor of a grad scaler, as a tensor."""
        if grad_scaler is None or not grad_scaler.is_enabled():
            return None
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        factor: Tensor = grad_scaler.scale(torch.ones((), device=device))
        return factor

    def _overflow(self) -> None:
        """Leaves gradients that are not finite, by which the grad scaler finds the overflow."""
        partition = self._setting.partition
        parts = [partition.shared, *partition.own.values(), self.aggregator.parameters()]
        for parameter in chain.from_iterable(parts):
            if parameter.requires_grad:
                parameter.grad = torch.full_like(parameter, torch.inf)


def _checked_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    names = tuple(tasks) if isinstance(tasks, Iterable) else ()
    if isinstance(tasks, str) or not names or not all(isinstance(t, str) and t for t in names):
        raise ValueError(f"tasks must be a list of at least one task name; found {tasks!r}.")
    if repeated := sorted({task for task in names if names.count(task) > 1}):
        raise ValueError(f"tasks must be distinct; repeated: {repeated}.")
    return names


def _plain(value: object) -> str:
    """A representation without addresses in memory, which differ from run to run."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
