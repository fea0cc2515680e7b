"""SDMGrad: the common descent direction, regularised towards a preferred one."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor
from torchjd import Stateful
from torchjd.aggregation import Weighting
from torchjd.linalg import PSDMatrix

from ._options import ConstructorRepr, ranged
from ._scale_free import ScaleFree
from .solvers import Array, library, onto_simplex, to_array, to_tensor


@final
class SDMGradWeighting(ConstructorRepr, Weighting[PSDMatrix], Stateful, ScaleFree):
    r"""Stochastic direction-oriented multi-objective gradient descent.

    With the preferred weights w̃, each call takes ``n_iter`` projected gradient steps with momentum,
    starting from the weights of the previous call, on

    .. math::
        \min_w \tfrac12 \|J^\top (w + \lambda \tilde w)\|^2 \quad \text{s.t.} \quad
        w \ge 0, \quad \sum_i w_i = 1

    and returns the weights :math:`(w + \lambda \tilde w) / (1 + \lambda)` (Xiao, Ban and Ji,
    NeurIPS 2023, arXiv 2305.18409). The Gramian is first divided by the squared mean norm of the
    gradients, as in the authors' code. The paper uses :math:`J_1 J_2^\top` of two independent
    batches instead.

    The steps are those of TorchJD's class of the same name, which finds the threshold of the
    projection in a Python loop, and adds 1e-8 to the squared mean norm.

    State: w, ``[K]``, in float64; initially equal, and reset when the number of tasks changes.

    Args:
        lr: The step size, above 0.
        momentum: The momentum, in [0, 1).
        n_iter: The number of steps, at least 1.
        lambda_: The weight λ of the preferred direction, at least 0.
        pref_vector: The preferred weights w̃, ``[K]``; equal weights with sum 1 if None.

    Raises:
        TypeError: If an option is not a number.
        ValueError: If an option is out of range, or ``pref_vector`` is not a vector.

    Example:
        >>> import torch
        >>> from samo.aggregation import SDMGradWeighting
        >>> SDMGradWeighting(lambda_=1.0)(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        tensor([0.5000, 0.5000])
    """

    lr: float = ranged(0, open_low=True)
    momentum: float = ranged(0, 1, open_high=True)
    n_iter: int = ranged(1, integer=True)
    lambda_: float = ranged(0)

    def __init__(
        self,
        lr: float = 10.0,
        momentum: float = 0.5,
        n_iter: int = 20,
        lambda_: float = 0.3,
        pref_vector: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.lr = lr
        self.momentum = momentum
        self.n_iter = n_iter
        self.lambda_ = lambda_
        if pref_vector is not None and pref_vector.ndim != 1:
            raise ValueError(
                f"pref_vector must be a vector; found shape {tuple(pref_vector.shape)}."
            )
        self.pref_vector = pref_vector
        self.register_buffer("_w", None)
        self._w: Tensor | None = None

    def reset(self) -> None:
        """Resets w to equal weights."""
        self._w = None

    def forward(self, gramian: PSDMatrix, /) -> Tensor:
        """Updates w and returns the weights, ``[K]``."""
        size = len(gramian)
        preferred = self.pref_vector
        if preferred is None:
            preferred = torch.full((size,), 1 / size, dtype=torch.float64)
        if preferred.shape != (size,):
            raise ValueError(
                f"pref_vector must have {size} values for {size} tasks; found {len(preferred)}."
            )
        if self._w is None or self._w.shape != preferred.shape:
            self._w = torch.full((size,), 1 / size, dtype=torch.float64)
        pull = self.lambda_ * to_array(preferred)
        w = self._descended(to_array(gramian), to_array(self._w), pull)
        self._w = torch.as_tensor(w)
        return to_tensor((w + pull) / (1 + self.lambda_), gramian)

    def _descended(self, gramian: Array, w: Array, pull: Array) -> Array:
        scale = float(library().sqrt(gramian.diagonal().clip(min=0)).mean()) ** 2
        matrix, velocity = gramian / (scale or 1.0), 0.0
        for _ in range(self.n_iter):
            velocity = self.momentum * velocity + matrix @ (w + pull)
            w = onto_simplex(w - self.lr * velocity)
        return w
