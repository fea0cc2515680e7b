"""The solver for α-fair weights, behind Nash-MTL and FairGrad."""

from __future__ import annotations

import math
import sys

from torch import Tensor

from ._arrays import (
    Array,
    diagonal_of,
    library,
    normalized,
    resolution,
    rounding,
    semidefinite,
)
from ._errors import ConvergenceError
from ._nonnegative import NonnegativePrograms

_EPSILON = sys.float_info.epsilon
# Smallest factor by which one step shrinks a positive number.
_LEAST_LEFT = 0.05
# Relative step after which the error is below the resolution of float64.
_SMALL_STEP = 1e-8
# Relative step that may consist of rounding errors only.
_SMALL = 1e-2
_ITERATIONS = 500
# Relative size of weights that count as zero.
_NOTHING = 1e-150
# Relative tolerance between the two sides of the equation.
_TOLERANCE = 1e-9
# Multiples of the usual rounding errors to try if no solution is found otherwise.
_UNLUCKY = (10, 100, 1000)
# Squared norm, outside a subspace, below which a normalised gradient counts as inside it.
_IN_SPAN = 1e-10


def alpha_fair(gramian: Tensor, alpha: float) -> Array:
    r"""Solves :math:`G w = w^{-1/\alpha}` for the weights w > 0.

    w is the unique minimum of the strictly convex function
    :math:`\frac12 w^\top G w - \sum_i \psi(w_i)` with :math:`\psi'(w) = w^{-1/\alpha}`. The
    direction :math:`d = J^\top w` maximises the α-fair utility of the improvements
    :math:`u = J d = G w`, minus :math:`\frac12 \|d\|^2`. α = 1 is the Nash bargaining solution; for
    α → 0 all weights tend to 1, and for α → ∞ the direction tends to that of MGDA, which maximises
    the smallest improvement.

    Newton's method runs on z > 0 and u > 0 together, for

    .. math::
        C z = u, \qquad \log(z_i / t_i) + \alpha \log(u_i / t_i) = 0, \qquad
        w_i = z_i / d_i, \quad t_i = d_i^{(1 - \alpha) / (1 + \alpha)},

    with d the norms of the gradients and C their cosines. The size of a gradient thus enters
    through t alone, and z = t if the gradients are orthogonal. A number that a step would make
    negative is reduced by 95 % instead. 4 to 8 steps are usual, 20 for condition numbers of 1e12.

    A zero gradient gets the weight 0, and the others are solved without it. More generally, there
    is no solution if a combination of gradients with positive weights is zero, because no direction
    improves all of its tasks. The weights that solve the equations of :math:`G + \varepsilon I`
    grow without bound for ε → 0, but the direction :math:`J^\top w` has a limit, and weights with
    this direction are returned: the losses of the tasks in such combinations stay the same, to
    first order, and the other tasks get the α-fair direction among those with this effect. If every
    task is in such a combination, all weights are 0.

    Args:
        gramian: The Gramian G of the gradients, ``[K, K]``.
        alpha: The fairness α > 0.

    Returns:
        The weights w, ``[K]``.

    Raises:
        ConvergenceError: If the iteration does not converge.
        ValueError: If the Gramian is not finite.

    Example:
        >>> import torch
        >>> torch.as_tensor(alpha_fair(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), alpha=1.0))
        tensor([0.5000, 1.0000], dtype=torch.float64)
    """
    xp, (cosines, norms) = library(), normalized(gramian)
    weights, present = xp.zeros_like(norms), norms > 0
    if present.all():
        return _solved(cosines, norms, alpha, resolution(gramian))
    if present.any():
        inner = cosines[present][:, present]
        weights[present] = _solved(inner, norms[present], alpha, resolution(gramian))
    return weights


def _solved(cosines: Array, norms: Array, alpha: float, noise: float) -> Array:
    """Returns the weights for gradients that are not zero."""
    xp = library()
    cosines = semidefinite(cosines, noise)
    log_t = xp.log(norms) * ((1 - alpha) / (1 + alpha))
    z, out = _newton(cosines, log_t, alpha, noise)
    if out.any():
        z = _without(out, cosines, norms, alpha, noise)
    return z / norms


def _newton(cosines: Array, log_t: Array, alpha: float, noise: float) -> tuple[Array, Array]:
    """Solves for z; also returns a mask of tasks with a combination that is zero, if any."""
    xp, magnitudes = library(), abs(cosines)
    target, resolved = (1 + alpha) * log_t, noise / len(cosines) ** 0.5
    z, u = _start(cosines, log_t, alpha)
    image, tried = cosines @ z, z < 0
    hessian, hold, step = cosines * 1.0, rounding(len(cosines)), math.inf
    diagonal = diagonal_of(hessian)
    for _ in range(_ITERATIONS):
        missing, excess, slope = u - image, xp.log(z) + alpha * xp.log(u) - target, u / alpha
        diagonal[:] = slope / z + (1 + hold)
        dz = xp.linalg.solve(hessian, missing - excess * slope)
        du = cosines @ dz - missing
        new = xp.maximum(xp.maximum(z + dz, _LEAST_LEFT * z), _NOTHING * z.max())
        before, step, z = step, float(abs(new / z - 1).max()), new
        image, size = cosines @ z, magnitudes @ z
        # Sums that cancel to less than this fraction of their terms count as zero.
        zero = (0.1 * _EPSILON * min(alpha, 1)) * size
        new = xp.maximum(xp.maximum(u + du, _LEAST_LEFT * u), zero)
        if step < _SMALL:
            step = max(step, float(abs((new - u) / (u + 10 / _SMALL_STEP * zero)).max()))
        u = new
        if float((u / size).min()) < resolved:
            suspects = u < resolved**0.5 * size
            if (suspects != tried).any():
                tried, out = suspects, _cancelling(cosines, suspects, noise)
                if out.any():
                    return z, out
        if step < _SMALL_STEP:
            break
        if before <= step < _SMALL and hold < _SMALL_STEP:
            # Rounding moves z along the flattest directions: damp these so that the others
            # converge.
            hold *= 100
    if _equal(z, image, xp.exp((target - xp.log(z)) / alpha), size):
        return z, z < 0
    # If combinations of gradients nearly cancel, rounding errors may be larger than usual.
    suspects = u < resolved**0.5 * size
    for larger in _UNLUCKY if suspects.any() else ():
        out = _cancelling(cosines, suspects, larger * noise)
        if out.any():
            return z, out
    raise ConvergenceError(
        f"The weights for alpha={alpha} did not converge in {_ITERATIONS} iterations: the relative "
        f"error of G w = w^(-1/alpha) is above {_TOLERANCE:.0e}."
    )


def _start(cosines: Array, log_t: Array, alpha: float) -> tuple[Array, Array]:
    """Returns z and u for orthogonal gradients, scaled to fit the given ones best."""
    z = library().exp(log_t)
    square = float(z @ z)
    # The scale is meaningless if the combination nearly cancels.
    scale = (square / max(float(z @ (cosines @ z)), 1e-3 * square)) ** (alpha / (1 + alpha))
    return z * scale, z * scale ** (-1 / alpha)


def _equal(z: Array, image: Array, u: Array, size: Array) -> bool:
    """Tests whether C z equals u, up to the tolerance."""
    equal = abs(image - u) <= _TOLERANCE * u + 10 * len(z) * _EPSILON * size
    as_good_as_zero = (z < 2 * _NOTHING * z.max()) & (image > u)
    return bool((equal | as_good_as_zero).all())


def _cancelling(cosines: Array, suspects: Array, noise: float) -> Array:
    """Marks the suspects with a positive combination that is zero, if any."""
    inner = cosines[suspects][:, suspects]
    (y,), _ = NonnegativePrograms(inner, noise).solve(-cosines.diagonal()[suspects][None])
    out = suspects & ~suspects
    if float(y @ inner @ y) < noise * float(y @ y):
        out[suspects] = y > 1e-6 * y.max()
    return out


def _without(out: Array, cosines: Array, norms: Array, alpha: float, noise: float) -> Array:
    """Solves for the tasks outside `out`, orthogonally to the tasks in it."""
    xp, rest = library(), ~out
    z = xp.zeros_like(norms)
    values, vectors = xp.linalg.eigh(cosines[out][:, out])
    kept = values > _IN_SPAN
    across = cosines[out][:, rest]
    shadows = (vectors[:, kept] / xp.sqrt(values[kept])).T @ across
    remainder = cosines[rest][:, rest] - shadows.T @ shadows
    squares = remainder.diagonal() * 1.0
    outside = squares > _IN_SPAN
    if outside.any():
        square = squares[outside]
        remainder = remainder[outside][:, outside] / xp.sqrt(square * square[:, None])
        inner = norms[rest][outside]
        weights = _solved(remainder, inner * xp.sqrt(square), alpha, noise / float(square.min()))
        found = xp.zeros_like(squares)
        found[outside] = weights * inner
        z[rest] = found
        programs = NonnegativePrograms(cosines[out][:, out], noise)
        z[out] = programs.solve((across @ found)[None])[0][0]
    return z
