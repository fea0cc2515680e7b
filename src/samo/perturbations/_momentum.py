"""Momentum-SAM: the losses are evaluated ahead of the parameters, along past gradients."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

from ._perturbation import Displacement
from ._running_mean import RunningMean


@dataclass(frozen=True)
class Momentum(Displacement):
    r"""Evaluates all tasks where the parameters are heading (Momentum-SAM, MSAM).

    .. math::
        g_i = \nabla l_i \Bigl( w - \rho \frac{v}{\lVert v \rVert} \Bigr), \qquad
        v \leftarrow \beta v + (1 - \beta) g

    with w the shared and own parameters together, and g the gradient that a step adds to ``.grad``
    (arXiv 2401.12033, Alg. 1, where v is the momentum of SGD: the same up to a factor that the norm
    cancels). With v = 0, as in the first step, there is no displacement. Adaptive, with
    :math:`T = |w|`: the displacement is :math:`-\rho\, T^2 \odot v / \lVert T \odot v \rVert`.

    It takes no further pass: the only evaluation is displaced. So the losses of a step, and what it
    leaves in buffers such as BatchNorm's statistics, are those of the displaced point, and there is
    no sharpness to report. A parameter that a step does not reach keeps its v, as it keeps its
    momentum in an optimizer. All ranks have the same v, so ``sync_perturbation`` has no effect.

    Args:
        rho: The radius ρ, in units of the parameters; >= 0. With 0 nothing is displaced.
        beta: The decay β of the running mean, in [0, 1).
        adaptive: Whether to scale by the parameters' absolute values.
        where: Restricts the displacement; see `Perturbation`.

    Raises:
        TypeError: If ``where`` is not callable.
        ValueError: If ``rho`` or ``beta`` is not a number in its range.

    Example:
        >>> import samo
        >>> samo.Momentum(0.05)
        Momentum(rho=0.05, adaptive=False, where=None, beta=0.9)
    """

    references: ClassVar[tuple[str, ...]] = ("becker2024msam", "foret2021sam")

    _: KW_ONLY
    beta: float = 0.9

    def __post_init__(self) -> None:
        self._check()
        self._check_number("beta", "a number in [0, 1)", lambda beta: 0 <= beta < 1)

    def memory(self) -> RunningMean:
        """Returns v = 0."""
        return RunningMean(self.beta)
