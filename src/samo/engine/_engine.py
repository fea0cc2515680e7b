"""The engine: sharpness-aware multi-task gradients in place of ``loss.backward()``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.distributed import ProcessGroup

from samo._citation import bibtex
from samo._errors import NonFiniteError
from samo.aggregation import TorchJDObject, create, method_of
from samo.distributed import check_ranks, unwrapped, world_of
from samo.perturbations import Displacement

from ._batch import BatchSize, Losses, closures_of, confined, sizes_of
from ._check import ClosureReport, check
from ._claims import Declared
from ._finite import Guard
from ._natural import ahead
from ._partition import Assignment, Partition
from ._result import StepResult
from ._setting import (
    Level,
    check_model,
    checked_guards,
    checked_tasks,
    configuration,
    make_setting,
)
from ._state import captured, restored
from ._step import Step
from ._write import call_hooks


class Engine:
    r"""Replaces ``loss.backward()`` with a sharpness-aware multi-task step.

    For each task i, the loss is evaluated at a perturbed point, and the gradients at these points
    are aggregated:

    .. math::
        g_i = \nabla l_i(\theta + \varepsilon_i, \varphi_i + \eta_i), \qquad
        \theta \text{ gets } A(g_1, \dots, g_K), \quad \varphi_i \text{ gets its part of } g_i

    with ε_i and η_i as defined by `Perturbation`, θ the shared parameters, φ_i the task's own and A
    the aggregator. For a scalarizer S, A is the sum with the weights
    :math:`w_i = \partial S / \partial l_i` at the natural losses; they apply to the own parameters
    as well, and S's own parameters get their gradient. Decomposed aggregation (F-MTL, arXiv
    2211.13723) is :math:`A(\nabla l_1, \dots) + A(g_1 - \nabla l_1, \dots)`, each term with a copy
    of A that has its own state; it equals :math:`A(g_1, \dots)` for methods whose weights are known
    before the gradients. A gradient method that also needs the losses receives them, and may define
    the objective of the own parameters (`samo.aggregation.SeesLosses`).

    Args:
        model: The model. A step changes its buffers and the random state as one forward pass does.
        tasks: The names of the K tasks.
        aggregator: A method's name (see `samo.aggregation.available`), or any TorchJD
            ``Aggregator``, ``Weighting[PSDMatrix]`` or ``Scalarizer``.
        perturbation: A `Perturbation` or `Momentum`; None for plain multi-task learning.
        decompose: Whether to aggregate loss gradients and flat gradients separately.
        shared: Parameters or modules that are shared.
        own: Parameters or modules that belong to one task, by task. Parameters that are declared
            neither here nor in ``shared`` are assigned from the autograd graph at the first step;
            if only ``own`` is declared, all others are shared.
        seed: The seed of the engine's own random numbers; the global generators are never seeded.
            It must be the same on all ranks.
        process_group: The processes that take each step together, on the union of their batches;
            all start from the same parameters. If None, the default group is used, provided that
            ``torch.distributed`` is initialised before the first step. The model may be wrapped in
            ``DistributedDataParallel`` (give the engine the wrapper) or sharded by ``fully_shard``.
        sync_perturbation: Whether all ranks perturb along the gradient of the whole batch, as one
            process would. If False, each rank perturbs along the gradient of its own batch
            (m-sharpness, arXiv 2010.01412, §4.1): less traffic, but a different algorithm, not an
            approximation.
        gradient_dtype: The dtype of the K × m matrix of task gradients, if the method needs one;
            None for the parameters' dtype. ``torch.bfloat16`` halves its memory, and rounds each
            entry by a relative error of up to 2⁻⁸. Sums use the parameters' dtype or wider.
        level: Where task gradients are compared: ``"parameter"``, with K backward passes through
            the shared part, or ``"representation"``, with one for any K. The representation z
            consists of the tensors at which the tasks' own parts of the autograd graph begin. With
            :math:`c_i = \partial l_i / \partial z`, the method is applied to the Gramian of the
            c_i, and :math:`(\partial z / \partial \theta)^\top \sum_i w_i c_i` is the gradient of
            the shared parameters (compare MGDA-UB, arXiv 1810.04650, §3.3). For steps that evaluate
            all tasks at one point: `ERM`, `GSAM`, `MSAM`, and heads only (``rho=0`` with
            ``rho_own``).
        guards: Modules outside of the model that the losses depend on (a discriminator, a teacher).
            Their buffers, flags, attributes and random numbers are treated as those of the model,
            and their parameters as frozen ones.

    Attributes:
        model: The model.
        tasks: The names of the tasks.
        aggregator: The TorchJD object; give its ``parameters()`` to the optimizer.
        decompose: Whether the aggregation is decomposed.
        sync_perturbation: Whether all ranks perturb along the same gradient.
        level: Where task gradients are compared.

    None of these can be set, but `rho` can.

    Raises:
        TypeError: If an argument has a wrong type.
        ValueError: If tasks are missing or repeated, the aggregator is unknown or made for another
            number of tasks, ``decompose`` is set without a perturbation, or the declared partition
            is invalid (`PartitionError`).

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
        aggregator: str | TorchJDObject,
        perturbation: Displacement | None = None,
        decompose: bool = False,
        shared: Declared | None = None,
        own: Mapping[str, Declared] | None = None,
        seed: int = 0,
        process_group: ProcessGroup | None = None,
        sync_perturbation: bool = True,
        gradient_dtype: torch.dtype | None = None,
        level: Level = "parameter",
        guards: Iterable[nn.Module] = (),
    ) -> None:
        check_model(model)
        self.model = model
        self.tasks = checked_tasks(tasks)
        n_tasks = len(self.tasks)
        self.aggregator = create(aggregator, n_tasks) if isinstance(aggregator, str) else aggregator
        self.decompose = decompose
        self.level = level
        self.sync_perturbation = sync_perturbation
        self._process_group = process_group
        self._checked, self._checked_rho = False, 0.0
        self._sizes: dict[str, float] = {}
        modules = checked_guards(guards)
        self._setting = make_setting(  # last: no attribute can be set from now on
            model,
            self.tasks,
            self.aggregator,
            perturbation,
            decompose=decompose,
            partition=Partition(unwrapped(model), self.tasks, shared, own, modules),
            seed=seed,
            process_group=process_group,
            sync_perturbation=sync_perturbation,
            gradient_dtype=gradient_dtype,
            level=level,
            guards=modules,
        )

    def __setattr__(self, name: str, value: object) -> None:
        # Methods can be replaced, as tests do.
        free = name == "rho" or name.startswith("_") or callable(getattr(type(self), name, None))
        if not free and "_setting" in self.__dict__:
            raise AttributeError(
                f"{name!r} of an engine cannot be set, only 'rho' can: create another engine."
            )
        super().__setattr__(name, value)

    @property
    def perturbation(self) -> Displacement | None:
        """The perturbation; None for plain multi-task learning."""
        return self._setting.perturbation

    @property
    def rho(self) -> float:
        """The radius ρ; 0 without a perturbation.

        It can be set at any time, for a schedule, and counts from the next step. Where ``rho_own``
        is None, it is the radius of the own parameters as well. As the learning rate is part of an
        optimizer's state, ρ is part of `state_dict`: `load_state_dict` sets it.

        Raises:
            ValueError: If it is set to a number that the constructor would refuse, or the engine
                has no perturbation.
        """
        return 0.0 if self.perturbation is None else self.perturbation.rho

    @rho.setter
    def rho(self, value: float) -> None:
        self._setting = self._setting.with_rho(value)

    @property
    def in_natural_pass(self) -> bool:
        """Whether the losses closure runs in the one pass of a step that counts.

        A closure that writes logs or updates metrics does so once a step if it asks for this. With
        micro-batches, each has its natural pass.
        """
        return self._setting.traced.in_natural_pass

    @property
    def partition(self) -> Assignment:
        """The names of the shared parameters (``.shared``) and of each task's own (``.own``).

        They are those declared or found so far: what is found is known after the first step.
        """
        self._setting.world.placement.settle()
        return self._setting.partition.assignment()

    def backward(
        self,
        losses: Losses | Sequence[Losses],
        *,
        batch_size: BatchSize | Sequence[BatchSize] | None = None,
        grad_scaler: GradScaler | None = None,
    ) -> StepResult:
        """Evaluates the losses and adds the aggregated gradients to the parameters' ``.grad``.

        Args:
            losses: A function that maps the names of requested tasks to their losses, scalar
                tensors. It is called several times per step, with all tasks or with one, and must
                evaluate the same batch each time. Tasks that it omits in the first call take no
                part in the step. A list of functions represents micro-batches: each is perturbed
                along its own gradient (m-SAM), and the task gradients are averaged and then
                aggregated once.
            batch_size: The number of samples that the losses are averaged over, if it differs
                between ranks or micro-batches; it weights the means over these. A number, or one
                per task (1 for tasks without one); a list of these for micro-batches. A task of
                size 0 does not count. If None, all losses have the same weight.
            grad_scaler: The scaler for fp16 training. Gradients are then scaled as by
                ``scaler.scale(loss).backward()``.

        Returns:
            The losses, weights and Gramian of the step.

        Raises:
            TypeError: If ``losses`` is not a function (or functions), or returns no mapping.
            ValueError: If it returns other tasks than requested, or a loss that is not a scalar or
                has no graph; if a gradient is sparse or complex; or if the partition cannot be
                determined (`PartitionError`).
            NonFiniteError: If a loss or gradient is not finite. With a ``grad_scaler`` the result
                is marked ``overflowed`` instead.
            RuntimeError: If it is called within a step of the same engine.

        After any exception, also an interrupt at any moment, parameters, buffers and the global
        random state are as one natural pass leaves them, ``.grad`` is unchanged, and the method,
        the estimator and the engine's random numbers are in the state before the step. Hooks of
        ``register_post_accumulate_grad_hook`` are called once, when every ``.grad`` is written.
        """
        journal = self._setting.journal
        step = journal.run(partial(self._take, losses, batch_size, grad_scaler))
        journal.run(partial(call_hooks, journal, step.written))
        return self._result(step)

    def _take(
        self,
        losses: Losses | Sequence[Losses],
        batch_size: BatchSize | Sequence[BatchSize] | None,
        grad_scaler: GradScaler | None,
    ) -> Step:
        """Takes a step, noting in the journal what it changes."""
        guard = Guard(self._factor(grad_scaler))
        self._join()
        setting, checked = self._setting, closures_of(losses)
        if len(checked) > 1 and self.level == "representation":
            setting.check_microbatches(len(checked))
        sizes = sizes_of(batch_size, len(checked), self.tasks)
        world, journal = setting.world, setting.journal
        closures, without_autocast = confined(checked, journal)
        step = Step(setting, closures, guard, sizes)
        step.begin()
        try:
            with world.ranks.together(), without_autocast:
                self._check_ranks()
                with journal.during(world.placement.begin, world.placement.end):
                    world.placement.start()
                    with ahead(setting), ExitStack() as traces:
                        step.gather(traces)
                        step.aggregate()
                        step.amplify()
                    step.write()
        except NonFiniteError:
            if grad_scaler is None or not grad_scaler.is_enabled():
                raise
            step.overflow()
            return step
        journal.note(partial(setattr, self, "_sizes", self._sizes))
        self._sizes = step.sizes
        return step

    def check(self, losses: Losses) -> ClosureReport:
        """Evaluates a closure twice at the same point, and reports whether the losses differ.

        A step needs a closure that evaluates the same function at every call. Nothing is changed,
        except what only the closure can reach (an iterator, a file).

        Args:
            losses: The closure, as for `backward`.

        Returns:
            The losses that differ, and what one evaluation moves; print it.

        Raises:
            TypeError: If ``losses`` is not a function, or returns no mapping.
            ValueError: If it returns other tasks than requested, or a loss that is not a scalar or
                has no graph.

        Example:
            >>> import samo, torch
            >>> model = torch.nn.Linear(2, 1)
            >>> batches = iter(torch.eye(2))
            >>> engine = samo.GSAM(model, tasks=["a"], aggregator="ls")
            >>> report = engine.check(lambda tasks: {"a": model(next(batches)).sum()})
            >>> report.pure
            False
        """
        (closure,) = closures_of([losses])
        return self._setting.journal.run(partial(check, self._setting, closure))

    @property
    def needs_losses_after_step(self) -> bool:
        """Whether the method learns from the losses after the optimizer's step (as FAMO does)."""
        return hasattr(self.aggregator, "update")

    def optimizer_stepped(self, losses: Mapping[str, Tensor]) -> None:
        """Passes the losses after the optimizer's step to methods that need them (such as FAMO).

        Args:
            losses: The losses on the same batch, after the optimizer's step, by task. All ranks
                must pass theirs.

        Raises:
            ValueError: If the method needs them (`needs_losses_after_step`), and ``losses`` is
                empty or names an unknown task.
        """
        update = getattr(self.aggregator, "update", None)
        method = self._setting.combiner
        if update is None or method.last is None:
            return
        ranks, sizes = self._setting.world.ranks, self._sizes
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
        """Notifies methods that count epochs (such as DWA) of the end of an epoch."""
        step = getattr(self.aggregator, "step", None)
        if callable(step):
            step()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state needed to resume bit for bit, without model and optimizer.

        Returns:
            Tensors and plain values, loadable by ``torch.load(.., weights_only=True)``.
        """
        return captured(self._setting, self.aggregator)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores a state from `state_dict`, of an engine with the same configuration.

        The radius ρ may differ: it becomes that of the state.

        Args:
            state: The state.

        Raises:
            ValueError: If the state belongs to another configuration, or to a model with other
                parameters; the engine is then unchanged.
        """
        self._setting = restored(self._setting, self.aggregator, state)
        self._checked = False

    def citation(self) -> str:
        """Returns the BibTeX entries of perturbation, estimator, method and library."""
        keys: list[str] = []
        if (perturbation := self.perturbation) is not None:
            keys += perturbation.references
            keys += ["kwon2021asam"] if perturbation.adaptive else []
            keys += ["phan2022fmtl"] if self.decompose else []
        if (ascending := self._setting.ascending) is not None and ascending.estimator is not None:
            keys += ascending.estimator.references
        method = method_of(self.aggregator)
        keys += [] if method is None else method.references
        return bibtex(dict.fromkeys([*keys, "quinton2024jacobian"]))

    def __repr__(self) -> str:
        shown = dict(self._configuration())
        if (ranks := self._setting.world.ranks.size) > 1:
            shown |= {"ranks": repr(ranks), "sync_perturbation": repr(self.sync_perturbation)}
        parts = ", ".join(f"{key}={value}" for key, value in shown.items())
        return f"Engine({parts})"

    def _configuration(self) -> Mapping[str, str]:
        return configuration(self._setting, self.aggregator)

    def _result(self, step: Step) -> StepResult:
        """Returns the result of a step; only the losses if it has overflowed."""
        update = step.update
        return StepResult(
            step.losses,
            None if update is None else step.perturbed or None,
            None if update is None else update.weights,
            None if update is None else update.gramian,
            None if update is None or update.gramian is None else step.gradients.level,
            overflowed=step.overflowed,
            ranks=self._setting.world.ranks.size,
            sync_perturbation=self.sync_perturbation,
        )

    def _join(self) -> None:
        """Joins a default group that was initialised after the engine was created."""
        setting = self._setting
        if self._process_group is not None or setting.world.ranks.size > 1:
            return
        if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
            return
        streams, sync = setting.world.streams, self.sync_perturbation
        world = world_of(self.model, self.tasks, None, streams, sync_perturbation=sync)
        joined = replace(setting, world=world)
        joined.check()
        self._setting = joined
        self._checked = False

    def _check_ranks(self) -> None:
        """Checks before the first step that all ranks start from the same state, and later ρ."""
        setting = self._setting
        if not self._checked:
            facts = {
                **self._configuration(),
                "sync_perturbation": repr(self.sync_perturbation),
                "gradient_dtype": repr(setting.workspace.gradient_dtype),
                **setting.partition.facts(),
            }
            check_ranks(setting.world, setting.traced.model, facts)
        elif self._checked_rho != self.rho:
            setting.world.ranks.check({"rho": repr(self.rho)})
        self._checked, self._checked_rho = True, self.rho

    def _factor(self, grad_scaler: GradScaler | None) -> Tensor | None:
        """Returns the scale of a grad scaler; None if it is disabled."""
        if grad_scaler is None or not grad_scaler.is_enabled():
            return None
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        factor: Tensor = grad_scaler.scale(torch.ones((), device=device))
        return factor
