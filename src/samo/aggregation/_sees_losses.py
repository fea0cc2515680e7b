"""What a method of the gradients asks for if it needs the losses as well."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class SeesLosses(ABC):
    r"""A method of the gradients that is told the losses as well: a capability to inherit.

    TorchJD calls an aggregator with the gradients and a weighting with their Gramian. A method that
    needs the losses too is told them first, by `see_losses`. The engine does so at each step, with
    the outermost module of its aggregator that has the capability; who calls TorchJD's functions
    does it himself. Before it is told any losses, a method does what it can without.

    As with scalarizers, an aggregator that has a method ``update`` is told the losses after the
    optimizer's step too (`Engine.optimizer_stepped`), and one that has a method ``step`` when an
    epoch ends (`Engine.epoch_ended`).

    Example:
        Normalise gradients by the losses, and minimise :math:`\sum_i \log l_i` in the heads.

        >>> import torch
        >>> from torchjd.aggregation import Weighting
        >>> from samo.aggregation import SeesLosses
        >>> class ByLoss(Weighting, SeesLosses):
        ...     def see_losses(self, losses, /):
        ...         self.losses = losses.detach()
        ...         return losses.log().sum()
        ...
        ...     def forward(self, gramian, /):
        ...         return 1 / self.losses
        >>> weighting = ByLoss()
        >>> weighting.see_losses(torch.tensor([1.0, 4.0]))
        tensor(1.3863)
        >>> weighting(torch.eye(2))
        tensor([1.0000, 0.2500])
    """

    @abstractmethod
    def see_losses(self, losses: Tensor, /) -> Tensor | None:
        r"""Is told the losses that belong to the gradients of the call that follows.

        A method that keeps state, or has something for each task, is told K losses at each step:
        where a task is absent its last one, and its gradient has a stand-in as well. Others are
        told those of the tasks that are present.

        Args:
            losses: The natural losses, of shape ``[K]``, in the order of the rows.

        Returns:
            A scalar S that is differentiable with respect to ``losses``, and to the method's
            parameters if it has any: the parameters that belong to one task are to minimise it, and
            so are the method's. None stands for the sum of the losses.
        """
