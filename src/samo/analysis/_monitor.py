"""Logs the steps of a training loop as JSON lines and TensorBoard events."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from ..engine import StepResult
from ..records import Log
from ._step_means import StepMeans


class Monitor:
    """Logs measurements of the steps of a training loop, without additional passes.

    Each line of ``steps.jsonl`` (and TensorBoard scalars of the same names in ``tensorboard/``) has
    the means over the ``every`` steps up to ``step``:

    =======================  ======================================================================
    ``loss/TASK``            the natural loss l_i(θ)
    ``sharpness/TASK``       perturbed minus natural loss, l_i(θ + ε_i, φ_i + η_i) − l_i(θ)
    ``weight/TASK``          the task's weight in the aggregate; if the aggregation is decomposed,
                             also ``weight_flat/TASK``, the weight of its flat gradient
    ``gradient_norm/TASK``   ‖g_i‖ of the gradients that were aggregated: √G_ii of the Gramian G
    ``conflicts``            the share of task pairs whose gradients have a negative inner product
    ``overflowed``           number of steps that a ``GradScaler`` skipped, excluded from the means
    ``time``, ``checksum``   the time of writing, and a CRC-32 of the line
    =======================  ======================================================================

    Quantities that a method does not have (without a perturbation or Gramian) are left out. Lines
    are flushed immediately; read them with `history` or
    ``pandas.read_json("runs/x/steps.jsonl", lines=True)``. Between two lines, the monitor only
    keeps references to tensors in the steps' results: it does not synchronize with the device.

    After a crash, a monitor of the same directory continues after the last complete line. Give it
    the step of the checkpoint that training resumes from, and later lines are removed. In
    distributed training, only one process should have a monitor.

    Args:
        directory: The directory of the log.
        every: The number of steps per line.
        step: The number of completed steps; None to continue after the last line of the log.

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
        (2, ['checksum', 'conflicts', 'gradient_norm/a', 'gradient_norm/b', 'loss/a', 'loss/b',
        'sharpness/a', 'sharpness/b', 'step', 'time', 'weight/a', 'weight/b'])
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
        """The number of logged steps, including those of earlier monitors of the directory."""
        return self._step

    def log(self, result: StepResult) -> None:
        """Records a step, and writes a line after every `every` steps.

        Args:
            result: The result of `samo.Engine.backward`.
        """
        self._step += 1
        if result.overflowed:
            self._overflowed += 1
        else:
            self._means.add(result)
        if self._step - self._log.last >= self._every:
            self._write()

    def close(self) -> None:
        """Writes the remaining steps, and closes the files."""
        if self._step > self._log.last:
            self._write()
        self._log.close()

    def _write(self) -> None:
        overflowed = {"overflowed": self._overflowed} if self._overflowed else {}
        self._log.write({"step": self._step, **self._means.take(), **overflowed})
        self._overflowed = 0
