"""One solver for α-fairness, which Nash-MTL and FairGrad are."""

from __future__ import annotations

import math
import sys

from torch import Tensor

from ._arrays import Array, diagonal_of, library
from ._errors import ConvergenceError
from ._nonnegative import NonnegativePrograms
from ._normal import normalized, resolution

_EPSILON = sys.float_info.epsilon
# What a step leaves of a positive number at least.
_LEAST_LEFT = 0.05
# A relative step after which the error is below float64's resolution.
_SMALL_STEP = 1e-8
# A relative step from which on rounding may be all that moves.
_SMALL = 1e-2
_ITERATIONS = 500
# The relative size of weights that are as good as zero.
_NOTHING = 1e-150
# What is accepted of the equation's two sides as equal, relative to them.
_TOLERANCE = 1e-9
# How many times larger than usual rounding errors may be, where there is no solution otherwise.
_UNLUCKY = (10, 100, 1000)
# The square of the part of a normalised gradient outside a space that is taken for rounding.
_IN_SPAN = 1e-10


def alpha_fair(gramian: Tensor, alpha: float) -> Array:
    r"""The weights w > 0 with :math:`G w = w^{-1/\alpha}`.

    They are the one minimum of :math:`\frac12 w^\top G w - \sum_i \psi(w_i)` with
    :math:`\psi'(w) = w^{-1/\alpha}`, a strictly convex function. In the terms of the tasks: the
    direction :math:`d = J^\top w` maximises the α-fair utility of the improvements
    :math:`u = J d = G w`, less :math:`\frac12 \|d\|^2`. α = 1 is the Nash bargaining solution; for
    α → 0 all weights become 1, and for α → ∞ the direction becomes that of MGDA, whose smallest
    improvement is the largest.

    Newton's method on z > 0 and u > 0 at once, for

    .. math::
        C z = u, \qquad \log(z_i / t_i) + \alpha \log(u_i / t_i) = 0, \qquad
        w_i = z_i / d_i, \quad t_i = d_i^{(1 - \alpha) / (1 + \alpha)},

    with d the norms of the gradients and C their cosines. So the size of a gradient enters through
    t alone, and the solution is z = t where the gradients are orthogonal. A number that a step
    would make negative falls by 95 % instead. 4 to 8 steps are usual, 20 for condition numbers of
    1e12.

    A gradient of zero gets the weight 0, and the others are solved without it. More generally,
    there is no solution where a combination of gradients with positive weights is zero: nothing
    improves all of its tasks. The weights that solve the equations of :math:`G + \varepsilon I`
    grow without bound for ε → 0, but the direction :math:`J^\top w` has a limit, and weights that
    give it are returned: the tasks of such combinations keep their losses, to first order, and the
    others get the α-fair direction among those that have this effect. Where every task is in such
    a combination, all weights are 0.

    Args:
        gramian: The Gramian G of the gradients, ``[K, K]``.
        alpha: α > 0.

    Returns:
        w, ``[K]``.

    Raises:
        ConvergenceError: If the iteration does not get there.
        ValueError: If the Gramian is not finite.
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
    """The weights for gradients that are not zero."""
    xp = library()
    log_t = xp.log(norms) * ((1 - alpha) / (1 + alpha))
    z, out = _newton(cosines, log_t, alpha, noise)
    if out.any():
        z = _without(out, cosines, norms, alpha, noise)
    return z / norms


def _newton(cosines: Array, log_t: Array, alpha: float, noise: float) -> tuple[Array, Array]:
    """Solves for z, or finds tasks of which a combination is zero, and marks them."""
    xp, magnitudes = library(), abs(cosines)
    target, resolved = (1 + alpha) * log_t, noise / len(cosines) ** 0.5
    z, u = _start(cosines, log_t, alpha)
    image, tried = cosines @ z, z < 0
    hessian, hold, step = cosines * 1.0, noise, math.inf
    diagonal = diagonal_of(hessian)
    for _ in range(_ITERATIONS):
        missing, excess, slope = u - image, xp.log(z) + alpha * xp.log(u) - target, u / alpha
        diagonal[:] = slope / z + (1 + hold)
        dz = xp.linalg.solve(hessian, missing - excess * slope)
        du = cosines @ dz - missing
        new = xp.maximum(xp.maximum(z + dz, _LEAST_LEFT * z), _NOTHING * z.max())
        before, step, z = step, float(abs(new / z - 1).max()), new
        image, size = cosines @ z, magnitudes @ z
        # Sums that cancel to less than this part of their terms are zero.
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
            # Rounding moves z in the flattest directions: hold it there, for the others to
            # converge.
            hold *= 100
    if _equal(z, image, xp.exp((target - xp.log(z)) / alpha), size):
        return z, z < 0
    # Where combinations of gradients nearly cancel, rounding may be larger than it usually is.
    suspects = u < resolved**0.5 * size
    for larger in _UNLUCKY if suspects.any() else ():
        out = _cancelling(cosines, suspects, larger * noise)
        if out.any():
            return z, out
    raise ConvergenceError(
        f"The weights for alpha={alpha} are not found in {_ITERATIONS} iterations: G w is not "
        f"w^(-1/alpha) to {_TOLERANCE:.0e} of it."
    )


def _start(cosines: Array, log_t: Array, alpha: float) -> tuple[Array, Array]:
    """The solution for orthogonal gradients, in the multiple that is best for these."""
    z = library().exp(log_t)
    square = float(z @ z)
    # Where it nearly cancels, that multiple says nothing.
    scale = (square / max(float(z @ (cosines @ z)), 1e-3 * square)) ** (alpha / (1 + alpha))
    return z * scale, z * scale ** (-1 / alpha)


def _equal(z: Array, image: Array, u: Array, size: Array) -> bool:
    """Whether C z is what it should be."""
    equal = abs(image - u) <= _TOLERANCE * u + 10 * len(z) * _EPSILON * size
    as_good_as_zero = (z < 2 * _NOTHING * z.max()) & (image > u)
    return bool((equal | as_good_as_zero).all())


def _cancelling(cosines: Array, suspects: Array, noise: float) -> Array:
    """Marks suspects of which a combination with positive weights is zero, if there are such."""
    inner = cosines[suspects][:, suspects]
    (y,), _ = NonnegativePrograms(inner, noise).solve(-cosines.diagonal()[suspects][None])
    out = suspects & ~suspects
    if float(y @ inner @ y) < noise * float(y @ y):
        out[suspects] = y > 1e-6 * y.max()
    return out


def _without(out: Array, cosines: Array, norms: Array, alpha: float, noise: float) -> Array:
    """Solves for the tasks that do not cancel, orthogonally to those that are marked as `out`."""
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
