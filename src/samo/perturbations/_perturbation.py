"""The perturbation: what displacements have in common, and the displacement along the gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor
from torch.nn import Parameter

from samo._numbers import number
from samo.tensors import Vector, part_of, ratio

from ._estimator import LocalGradient
from ._running_mean import RunningMean
from ._spsa import SPSA

Where = Callable[[str, Parameter], bool | Tensor]


@dataclass(frozen=True)
class Displacement:
    """A displacement of the parameters: `Perturbation` or `Momentum`.

    Args:
        rho: The radius ρ, in units of the parameters; >= 0.
        adaptive: Whether to scale by the parameters' absolute values (ASAM).
        where: Restricts the displacement; see `Perturbation`.

    Attributes:
        references: The keys of its papers in ``references.bib``.
    """

    references: ClassVar[tuple[str, ...]] = ()

    rho: float
    _: KW_ONLY
    adaptive: bool = False
    where: Where | None = None

    @property
    def ascending(self) -> Perturbation | None:
        """The displacement itself if losses are evaluated a second time, else None."""
        return None

    def memory(self) -> RunningMean | None:
        """Returns a new mean of past gradients, along which the first evaluation is displaced.

        None if the losses are evaluated at the parameters themselves.
        """
        return None

    def selected(
        self, named: Iterable[tuple[str, Parameter]]
    ) -> tuple[list[Parameter], list[Tensor | None]]:
        """Returns the parameters to displace, and the mask of each (None for all entries)."""
        parameters: list[Parameter] = []
        masks: list[Tensor | None] = []
        for name, parameter in named:
            mask = True if self.where is None else self.where(name, parameter)
            if isinstance(mask, Tensor):
                if mask.dtype != torch.bool or mask.shape != parameter.shape:
                    raise ValueError(
                        f"where({name!r}, ..) must return True, False or a boolean mask of shape "
                        f"{tuple(parameter.shape)}; found {mask.dtype} of {tuple(mask.shape)}."
                    )
                masks.append(part_of(mask.to(parameter.device), parameter))
            elif mask is True:
                masks.append(None)
            elif mask is False:
                continue
            else:
                raise TypeError(
                    f"where({name!r}, ..) must return True, False or a boolean mask (a tensor); "
                    f"found {mask!r}."
                )
            parameters.append(parameter)
        return parameters, masks

    def to_radius_(self, direction: Vector, point: Vector, rho: float) -> tuple[Tensor, float]:
        """Scales a direction such that ``factor * direction`` has radius ρ.

        Args:
            direction: The direction; changed in place.
            point: The parameters' values, for the adaptive form.
            rho: The radius.

        Returns:
            The norm, and the factor. For a norm on the CPU, the caller applies the factor as it
            adds the displacement to the parameters. On other devices the direction is already
            scaled, without a synchronisation, and the factor is 1.
        """
        if self.adaptive:
            direction.hadamard_(point.tensors)
        norm = direction.norm()
        if self.adaptive:
            direction.hadamard_(point.tensors)
        factor = ratio(rho, norm)
        if isinstance(factor, Tensor):
            direction.mul_(factor)
            return norm, 1.0
        return norm, factor

    def _check(self) -> None:
        """Checks the options that all displacements have."""
        self._check_number("rho", "a finite number >= 0", lambda rho: 0 <= rho < math.inf)
        if self.where is not None and not callable(self.where):
            raise TypeError(
                f"where must be a function of a parameter's name and the parameter; "
                f"found {type(self.where).__name__}."
            )

    def _check_number(self, name: str, allowed: str, valid: Callable[[float], bool]) -> None:
        """Checks that an option is a valid number, and stores it as a float."""
        found = getattr(self, name)
        value = number(found)
        if value is None or not valid(value):
            raise ValueError(f"{name} must be {allowed}; found {found!r}.")
        object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Perturbation(Displacement):
    r"""The radius and the direction of the perturbation.

    .. math::
        u_i = \alpha g_0 + (1 - \alpha) \hat g_i, \qquad
        \varepsilon_i = \rho \frac{u_i}{\lVert u_i \rVert}, \qquad
        \eta_i = \rho_{\text{own}} \frac{\nabla_{\varphi_i} l_i}{\lVert \nabla_{\varphi_i} l_i
        \rVert}

    (SAMO, Eq. 1, where :math:`\rho_{\text{own}} = \rho`). The norm of ε_i is over all shared
    parameters together, that of η_i over the task's own. A zero gradient gives a zero perturbation.
    Adaptive (ASAM, arXiv 2102.11600): with :math:`T = |\theta|`, :math:`\varepsilon_i = \rho\, T^2
    \odot u_i / \lVert T \odot u_i \rVert`, η_i likewise.

    With ``rho=0`` and a positive ``rho_own`` the heads alone are perturbed: the backward pass at
    the natural point stops at the heads, and a second pass serves all tasks, whatever α is. (With
    ``fully_shard`` that backward pass runs through the whole model.)

    Args:
        rho: The radius ρ of ε_i, in units of the parameters; >= 0. With 0 the shared parameters are
            not perturbed.
        rho_own: The radius of η_i, >= 0; ρ if None.
        alpha: The weight α of the mean gradient g_0 relative to the local gradient, in [0, 1].
            With 1 there is one ε for all tasks, and ``local`` is not used.
        local: The estimator of the local gradient ĝ_i; `SPSA` if None.
        adaptive: Whether to scale by the parameters' absolute values.
        where: Restricts the perturbation: ``where(name, parameter)`` returns True or False for a
            whole parameter (SAM-ON, arXiv 2306.04226, perturbs norm layers only), or a boolean mask
            of the parameter's shape (SSAM, arXiv 2210.05177). It is called in every step. The local
            gradient is estimated with respect to the coordinates that it selects.

    Raises:
        TypeError: If ``local`` is not an estimator or ``where`` is not callable.
        ValueError: If ``rho``, ``rho_own`` or ``alpha`` is not a number in its range.

    Example:
        >>> import samo
        >>> samo.Perturbation(0.1, where=lambda name, parameter: "norm" in name).rho
        0.1
        >>> samo.Perturbation(0.0, rho_own=0.4).own_radius  # heads only
        0.4
    """

    references: ClassVar[tuple[str, ...]] = ("ban2025samo", "foret2021sam")

    _: KW_ONLY
    rho_own: float | None = None
    alpha: float = 0.5
    local: LocalGradient | None = None

    def __post_init__(self) -> None:
        self._check()
        if self.rho_own is not None:
            allowed = "None (for rho) or a finite number >= 0"
            self._check_number("rho_own", allowed, lambda rho: 0 <= rho < math.inf)
        self._check_number("alpha", "a number in [0, 1]", lambda alpha: 0 <= alpha <= 1)
        if self.local is None:
            object.__setattr__(self, "local", SPSA())
        elif not isinstance(self.local, LocalGradient):
            raise TypeError(
                f"local must be an estimator such as samo.SPSA(); "
                f"found {type(self.local).__name__}."
            )

    @property
    def ascending(self) -> Self:
        """The perturbation itself: losses are evaluated a second time."""
        return self

    @property
    def own_radius(self) -> float:
        """The radius of η_i."""
        return self.rho if self.rho_own is None else self.rho_own

    @property
    def moves(self) -> bool:
        """Whether any parameters are perturbed."""
        return self.rho > 0 or self.own_radius > 0

    @property
    def estimator(self) -> LocalGradient | None:
        """The estimator; None if there is one ε for all tasks: with α = 1, or ρ = 0."""
        return None if self.alpha == 1 or self.rho == 0 else self.local
