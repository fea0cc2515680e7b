"""Common base of Office-Home and its small version: the same classes in several domains."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ._benchmark import Benchmark


class Domains(Benchmark):
    """Classification in several domains: each has its own images, loader and head.

    A task is a domain. A batch maps domains to images and labels; a domain that has no images left
    is missing from it.
    """

    def outputs(
        self, model: nn.Module, batch: Any, tasks: Sequence[str]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        present = {task: batch[task] for task in tasks if task in batch}
        return {
            task: (model(self.normalized(x), [task])[task], labels)
            for task, (x, labels) in present.items()
        }

    def loss(self, task: str, prediction: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002
        return F.cross_entropy(prediction, target)

    @abstractmethod
    def normalized(self, x: Tensor) -> Tensor:
        """Returns the input of the network for the images of a batch."""
