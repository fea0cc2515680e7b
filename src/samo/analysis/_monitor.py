"""What a training loop attaches to see its steps: JSON lines and TensorBoard events."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from ..engine import StepResult
from ..records import Log
from ._step_means import StepMeans


class Monitor:
    """Writes down what the steps of a training loop see, without a further pass.

    A line of ``steps.jsonl`` (and TensorBoard's scalars of the same names, in ``tensorboard/``) has
    the means over the ``every`` steps up to ``step``:

    =======================  ======================================================================
    ``loss/TASK``            the natural loss l_i(θ)
    ``sharpness/TASK``       perturbed minus natural loss, l_i(θ + ε_i, φ_i + η_i) − l_i(θ)
    ``weight/TASK``          the task's weight in the aggregate; ``weight_flat/TASK`` besides, that
                             of its flat gradient, where the aggregation is decomposed
    ``gradient_norm/TASK``   ‖g_i‖ of the gradients that were aggregated: √G_ii of the Gramian G
    ``conflicts``            the share of task pairs whose gradients have a negative inner product
    ``overflowed``           how many steps a ``GradScaler`` skipped; they count for nothing else
    =======================  ======================================================================

    What a method does not have (no perturbation, no Gramian) is left out. The lines are in the file
    as soon as they are written, for instance for
    ``pandas.read_json("runs/x/steps.jsonl", lines=True)``; `history` reads them too. Between two
    lines the monitor only keeps references to what the steps' results hold: it does nothing on
    the device, and does not wait for it.

    After a crash, a monitor of the same directory goes on after the last whole line; give it the
    step of the checkpoint that training goes on from, and what came after that is cut off. In
    distributed training one process should monitor.

    Args:
        directory: Where to write.
        every: After how many steps to write a line.
        step: How many steps are complete; None for as many as the log tells.

    Raises:
        ValueError: If ``every`` or ``step`` is out of range, or the log is not a monitor's.
        ImportError: If TensorBoard is missing (``pip install "torch-samo[train]"``).

    Example:
        >>> import json, tempfile, torch, samo
        >>> model = torch.nn.Linear(2, 2)
        >>> engine = samo.GSAM(model, ["a", "b"], aggregator="upgrad")
        >>> def losses(tasks):
        ...     left, right = model(torch.ones(1, 2)).square().squeeze(0)
        ...     return {"a": left + 0.1 * right, "b": right + 0.1 * left}
        >>> directory = tempfile.mkdtemp()
        >>> with Monitor(directory) as monitor:
        ...     for _ in range(3):
        ...         monitor.log(engine.backward(losses))
        >>> with open(f"{directory}/steps.jsonl") as lines:
        ...     first, *rest = map(json.loads, lines)
        >>> len(rest), sorted(first)
        (2, ['conflicts', 'gradient_norm/a', 'gradient_norm/b', 'loss/a', 'loss/b', 'sharpness/a',
        'sharpness/b', 'step', 'time', 'weight/a', 'weight/b'])
    """

    def __init__(self, directory: Path | str, *, every: int = 1, step: int | None = None) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1; found {every}.")
        if step is not None and step < 0:
            raise ValueError(f"step must be at least 0; found {step}.")
        directory = Path(directory)
        self._log = Log(directory / "steps.jsonl", directory / "tensorboard", "step", step)
        self._every = every
        self._means = StepMeans()
        self._overflowed = 0
        self._step = self._log.last

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def step(self) -> int:
        """How many steps were logged, those of former monitors of the directory included."""
        return self._step

    def log(self, result: StepResult) -> None:
        """Takes notice of a step, and writes a line if one is due.

        Args:
            result: What `samo.Engine.backward` returned.
        """
        self._step += 1
        if result.overflowed:
            self._overflowed += 1
        else:
            self._means.add(result)
        if self._step - self._log.last >= self._every:
            self._write()

    def close(self) -> None:
        """Writes what is left, and closes the files."""
        if self._step > self._log.last:
            self._write()
        self._log.close()

    def _write(self) -> None:
        overflowed = {"overflowed": self._overflowed} if self._overflowed else {}
        self._log.write({"step": self._step, **self._means.take(), **overflowed})
        self._overflowed = 0
