"""Numbers that users give, of any kind."""

from __future__ import annotations

from numbers import Real


def number(value: object) -> float | None:
    """Converts a real number to ``float``.

    Args:
        value: A number of Python or numpy, or a tensor of shape ``[]``.

    Returns:
        The number; None for anything else, also for True and False.

    Example:
        >>> import torch
        >>> number(1), number(torch.tensor(0.5)), number("0.1")
        (1.0, 0.5, None)
    """
    item = value.item() if getattr(value, "ndim", None) == 0 else value  # type: ignore[attr-defined]
    return float(item) if isinstance(item, Real) and not isinstance(item, bool) else None
