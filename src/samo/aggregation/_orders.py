"""Random orders in which each task meets the others."""

from __future__ import annotations

import torch

from ._arrays import Array, library


def random_orders(n_tasks: int) -> Array:
    """Draws an order of the other tasks for each task, from torch's global generator.

    All orders are equally likely, and the tasks' are independent.

    Args:
        n_tasks: The number of tasks K.

    Returns:
        The orders, ``[K, K - 1]``: row i has all tasks but i.
    """
    keys = torch.rand(n_tasks, n_tasks, dtype=torch.float64).fill_diagonal_(2.0)
    orders = keys.argsort(dim=1)[:, :-1]
    return orders if library() is torch else orders.numpy()
