"""Numerical solvers for Gramians of task gradients, in float64 on the CPU.

`normalized` turns a Gramian into cosines and norms, and the solvers work on these: nonnegative
quadratic programs (`NonnegativePrograms`), α-fair weights (`alpha_fair`), and the projection onto
the simplex (`onto_simplex`).
"""

from ._alpha_fair import alpha_fair
from ._arrays import (
    Array,
    diagonal_of,
    library,
    normalized,
    resolution,
    semidefinite,
    to_array,
    to_tensor,
)
from ._errors import ConvergenceError
from ._nonnegative import NonnegativePrograms
from ._simplex import onto_simplex

__all__ = [
    "Array",
    "ConvergenceError",
    "NonnegativePrograms",
    "alpha_fair",
    "diagonal_of",
    "library",
    "normalized",
    "onto_simplex",
    "resolution",
    "semidefinite",
    "to_array",
    "to_tensor",
]
