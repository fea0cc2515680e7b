"""Projections onto the dual cone of the gradients, which UPGrad and DualProj consist of."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torchjd.linalg import DualConeProjector, PSDMatrix

from ._arrays import library, to_array, to_tensor
from ._nonnegative import NonnegativePrograms
from ._normal import normalized, resolution


@final
class ExactProjector(DualConeProjector):
    r"""Projects combinations of gradients onto the cone of the directions that harm no task.

    The projection of :math:`J^\top u` onto :math:`\{d : J d \ge 0\}` is :math:`J^\top v` with

    .. math::
        \min_v v^\top G v \quad \text{s.t.} \quad v \ge u

    (Quinton and Rey, arXiv 2406.16232, Proposition 1). It is what TorchJD's ``UPGrad`` and
    ``DualProj`` take as their ``projector``; their default, ``QuadprogProjector``, adds 1e-4 to the
    diagonal of G over its trace, which is a different problem, and does not project where the
    trace is below 1e-4. Here nothing is added that can be seen, the size of the gradients does not
    matter, and all projections are solved together.

    Example:
        >>> import torch
        >>> from torchjd.aggregation import DualProj
        >>> from samo.aggregation import ExactProjector
        >>> DualProj(projector=ExactProjector())(torch.tensor([[2.0, 0.0], [-4.0, 1.0]]))
        tensor([0.0000, 0.5000])
    """

    def __call__(self, U: Tensor, G: PSDMatrix) -> Tensor:  # noqa: N803 - TorchJD's names
        """Projects.

        Args:
            U: The combinations u, ``[.., K]``.
            G: The Gramian, ``[K, K]``.

        Returns:
            The combinations v, of the same shape, in the dtype of G.

        Raises:
            ConvergenceError: If one is not found.
            ValueError: If the Gramian is not finite.
        """
        xp, (cosines, norms) = library(), normalized(G)
        u = to_array(U.reshape(-1, len(G)))
        # A gradient of zero plays no part: its cosines with the others are zero.
        linear = xp.where(norms > 0, (u * norms) @ cosines, 0.0)
        x, _ = NonnegativePrograms(cosines, resolution(G)).solve(linear)
        v = u + x / xp.where(norms > 0, norms, 1.0)
        return to_tensor(v, G).reshape(U.shape)

    def __repr__(self) -> str:
        return "ExactProjector()"
