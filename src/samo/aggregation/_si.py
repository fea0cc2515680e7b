"""Scale-invariant scalarization."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torchjd.scalarization import Scalarizer

from ._checks import check_positive


@final
class SI(Scalarizer):
    r"""Scale-invariant scalarization (SI): the sum of the logarithms of the losses.

    .. math::
        S(l) = \sum_i \log l_i, \qquad \frac{\partial S}{\partial l_i} = \frac{1}{l_i}

    The baseline "SI" of Nash-MTL (Navon et al., ICML 2022, arXiv 2202.01017) and of later papers.
    The gradient does not depend on the scale of a loss.

    Raises:
        ValueError: In a call, if a loss is not positive.

    Example:
        >>> import torch
        >>> from samo.aggregation import SI
        >>> losses = torch.tensor([0.5, 4.0], requires_grad=True)
        >>> SI()(losses).backward()
        >>> losses.grad
        tensor([2.0000, 0.2500])
    """

    def forward(self, values: Tensor, /) -> Tensor:
        """Returns the sum of the logarithms of the losses, of any shape."""
        check_positive(self, values)
        return values.log().sum()
