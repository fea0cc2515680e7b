"""Two benchmarks from the 8 × 8 digits of scikit-learn."""

from ._domains import DigitsDomains
from ._pairs import Digits

__all__ = ["Digits", "DigitsDomains"]
