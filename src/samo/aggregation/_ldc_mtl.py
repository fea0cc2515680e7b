"""LDC-MTL: loss weights from a bilevel problem, solved in a single loop."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn
from torchjd import Stateful
from torchjd.scalarization import Scalarizer

from ._checks import check_shape
from ._options import ConstructorRepr, ranged


@final
class LDCMTL(ConstructorRepr, Scalarizer, Stateful):
    r"""Loss discrepancy control.

    The weights σ(W) keep the weighted losses similar, while the model minimises their sum:

    .. math::
        \min_W f(W, x^*) = \sum_{i<K} |\sigma_i l_i(x^*) - \sigma_{i+1} l_{i+1}(x^*)|
        \quad \text{s.t.} \quad x^* \in \arg\min_x g(W, x) = \sum_i \sigma_i l_i(x)

    (Xiao et al., arXiv 2502.08585). In a single loop, W and the model x both minimise the
    penalised sum :math:`g + \lambda f`, here with g divided by the (constant) sum of the weights:

    .. math::
        S(l) = \frac{\sum_i \sigma_i l_i}{[\sum_j \sigma_j]} + \lambda \, f(W, l)

    W is the parameter ``logits``, σ the sigmoid, and initially W = 1, as in the authors' code for
    CelebA. Pass `parameters()` to the optimizer of the model.

    This class omits the paper's router, a small network that computes W from the features of the
    model (in the authors' code for the dense benchmarks), since a scalarizer receives only the
    losses; and the normalisation of the losses by their first values, from earlier versions of the
    paper. The order of the tasks matters, since neighbours are compared. A weight
    :math:`\partial S / \partial l_i` can be negative if λ is not small compared to 1 / K.

    Args:
        n_tasks: The number of tasks K.
        lambda_: The weight λ of the discrepancy, at least 0. The authors' code uses 0.1 for
            Cityscapes, 0.05 for NYUv2 and QM9, and 0.01 for CelebA.

    Raises:
        TypeError: If λ is not a number.
        ValueError: If λ is negative.

    Example:
        >>> import torch
        >>> from samo.aggregation import LDCMTL
        >>> losses = torch.tensor([1.0, 3.0], requires_grad=True)
        >>> LDCMTL(2, lambda_=0.1)(losses).backward()
        >>> losses.grad
        tensor([0.4269, 0.5731])
    """

    lambda_: float = ranged(0)

    def __init__(self, n_tasks: int, lambda_: float = 0.05) -> None:
        super().__init__()
        self.n_tasks = n_tasks
        self.lambda_ = lambda_
        self.logits = nn.Parameter(torch.ones(n_tasks))

    def reset(self) -> None:
        """Resets the weights to equal ones."""
        with torch.no_grad():
            self.logits.fill_(1.0)

    def forward(self, values: Tensor, /) -> Tensor:
        """Returns S(l), which is differentiable with respect to W too."""
        check_shape(self, values, self.n_tasks)
        weights = self.logits.sigmoid()
        weighted = weights * values
        discrepancy = (weighted[:-1] - weighted[1:]).abs().sum()
        return weighted.sum() / weights.detach().sum() + self.lambda_ * discrepancy
