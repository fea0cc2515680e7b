"""The perturbation: computes ε and η from ascent directions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from samo.tensors import Vector, part_of, ratio

from ._estimator import LocalGradient
from ._spsa import SPSA

Where = Callable[[str, Parameter], bool | Tensor]


@dataclass(frozen=True)
class Perturbation:
    r"""The radius and the direction of the perturbation.

    .. math::
        u_i = \alpha g_0 + (1 - \alpha) \hat g_i, \qquad
        \varepsilon_i = \rho \frac{u_i}{\lVert u_i \rVert}, \qquad
        \eta_i = \rho \frac{\nabla_{\varphi_i} l_i}{\lVert \nabla_{\varphi_i} l_i \rVert}

    (SAMO, Eq. 1). The norm of ε_i is over all shared parameters together, that of η_i over the
    task's own. A zero gradient gives a zero perturbation. Adaptive (ASAM, arXiv 2102.11600): with
    :math:`T = |\theta|`, :math:`\varepsilon_i = \rho\, T^2 \odot u_i / \lVert T \odot u_i
    \rVert`, η_i likewise.

    Args:
        rho: The radius ρ, in units of the parameters; >= 0. With 0 there is no perturbation.
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
        ValueError: If ``rho`` or ``alpha`` is out of its range.

    Example:
        >>> import samo
        >>> samo.Perturbation(0.1, where=lambda name, parameter: "norm" in name).rho
        0.1
    """

    rho: float
    _: KW_ONLY
    alpha: float = 0.5
    local: LocalGradient | None = None
    adaptive: bool = False
    where: Where | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.rho, int | float) and 0 <= self.rho < math.inf):
            raise ValueError(f"rho must be a finite number >= 0; found {self.rho!r}.")
        if not (isinstance(self.alpha, int | float) and 0 <= self.alpha <= 1):
            raise ValueError(f"alpha must be a number in [0, 1]; found {self.alpha!r}.")
        if self.where is not None and not callable(self.where):
            raise TypeError(
                f"where must be a function of a parameter's name and the parameter; "
                f"found {type(self.where).__name__}."
            )
        if self.local is None:
            object.__setattr__(self, "local", SPSA())
        elif not isinstance(self.local, LocalGradient):
            raise TypeError(
                f"local must be an estimator such as samo.SPSA(); "
                f"found {type(self.local).__name__}."
            )

    @property
    def estimator(self) -> LocalGradient | None:
        """The estimator; None if α = 1, which makes it irrelevant."""
        return None if self.alpha == 1 else self.local

    def selected(
        self, named: Iterable[tuple[str, Parameter]]
    ) -> tuple[list[Parameter], list[Tensor | None]]:
        """Returns the parameters to perturb, and the mask of each (None for all entries)."""
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

    def to_radius_(self, direction: Vector, point: Vector) -> tuple[Tensor, float]:
        """Scales an ascent direction such that ``factor * direction`` has radius ρ.

        Args:
            direction: u_i, or the gradient with respect to the own parameters; changed in place.
            point: The parameters' values, for the adaptive form.

        Returns:
            The norm, and the factor. For a norm on the CPU, the caller applies the factor as it
            adds the perturbation to the parameters. On other devices the direction is already
            scaled, without a synchronisation, and the factor is 1.
        """
        if self.adaptive:
            direction.hadamard_(point.tensors)
        norm = direction.norm()
        if self.adaptive:
            direction.hadamard_(point.tensors)
        factor = ratio(self.rho, norm)
        if isinstance(factor, Tensor):
            direction.mul_(factor)
            return norm, 1.0
        return norm, factor
