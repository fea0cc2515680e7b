"""QM9: properties of small organic molecules."""

from ._benchmark import QM9

__all__ = ["QM9"]
