"""The projection onto the dual cone of the gradients, for UPGrad and DualProj."""

from __future__ import annotations

from typing import final

from torch import Tensor
from torchjd.linalg import DualConeProjector, PSDMatrix

from .solvers import NonnegativePrograms, library, normalized, resolution, to_array, to_tensor


@final
class ExactProjector(DualConeProjector):
    r"""Projects combinations of gradients onto the cone of the directions that harm no task.

    The projection of :math:`J^\top u` onto :math:`\{d : J d \ge 0\}` is :math:`J^\top v` with

    .. math::
        \min_v v^\top G v \quad \text{s.t.} \quad v \ge u

    (Quinton and Rey, arXiv 2406.16232, Proposition 1). Pass it as the ``projector`` of TorchJD's
    ``UPGrad`` and ``DualProj``. Their default, ``QuadprogProjector``, solves another problem: it
    adds 1e-4 to the diagonal of G over its trace, and does not project if the trace is below 1e-4.
    Here the solution is exact up to rounding, does not depend on the size of the gradients, and all
    projections are solved together.

    Example:
        >>> import torch
        >>> from torchjd.aggregation import DualProj
        >>> from samo.aggregation import ExactProjector
        >>> DualProj(projector=ExactProjector())(torch.tensor([[2.0, 0.0], [-4.0, 1.0]]))
        tensor([0.0000, 0.5000])
    """

    def __call__(self, U: Tensor, G: PSDMatrix) -> Tensor:  # noqa: N803 - TorchJD's names
        """Projects combinations of gradients.

        Args:
            U: The combinations u, ``[.., K]``.
            G: The Gramian, ``[K, K]``.

        Returns:
            The combinations v, of the same shape, in the dtype of G.

        Raises:
            ConvergenceError: If the solver does not converge.
            ValueError: If the Gramian is not finite.
        """
        xp, (cosines, norms) = library(), normalized(G)
        u = to_array(U.reshape(-1, len(G)))
        # A zero gradient has no effect: its cosines with the others are zero.
        linear = xp.where(norms > 0, (u * norms) @ cosines, 0.0)
        x, _ = NonnegativePrograms(cosines, resolution(G)).solve(linear)
        v = u + x / xp.where(norms > 0, norms, 1.0)
        return to_tensor(v, G).reshape(U.shape)

    def __repr__(self) -> str:
        return "ExactProjector()"
