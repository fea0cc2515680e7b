"""The capability of gradient methods that also need the losses."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor


class SeesLosses(ABC):
    r"""Base class of aggregators and weightings that also receive the losses.

    TorchJD calls an aggregator with the gradients and a weighting with their Gramian. A method that
    also needs the losses receives them beforehand, in `see_losses`. The engine calls it at each
    step, on the outermost module of its aggregator that inherits from this class; with TorchJD's
    own functions, the user calls it. A method should also work without losses.

    As with scalarizers, the engine calls a method named ``update`` with the losses after the
    optimizer's step (`Engine.optimizer_stepped`), and one named ``step`` at the end of an epoch
    (`Engine.epoch_ended`), if the aggregator has them.

    Example:
        Normalises gradients by the losses, and minimises :math:`\sum_i \log l_i` in the heads.

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
        r"""Receives the losses that belong to the gradients of the next call.

        A method that keeps state, or has a tensor with an entry for each task, receives K losses at
        each step: for an absent task, its last loss and a replacement of its gradient. Other
        methods receive the losses of the present tasks.

        Args:
            losses: The natural losses, of shape ``[K]``, in the order of the rows.

        Returns:
            A scalar S that is differentiable with respect to ``losses``, and to the parameters of
            the method if it has any. S is the objective of the tasks' own parameters and of those
            of the method. None stands for the sum of the losses.
        """
