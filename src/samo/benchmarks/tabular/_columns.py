"""Columns of numbers or of strings."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Mask = NDArray[np.bool_]

_NUMBER = re.compile(r"[-+]?((\d+\.?\d*|\.\d+)(e[-+]?\d+)?|inf(inity)?)", re.IGNORECASE | re.ASCII)
# Up to this many different strings are categories, whatever the number of rows.
_MANY = 32


@dataclass(frozen=True)
class Numbers:
    """A column of numbers.

    Attributes:
        keys: The numbers; NaN for a missing one.
    """

    keys: Floats

    @property
    def present(self) -> Mask:
        """A mask of the rows that have a value."""
        return ~np.isnan(self.keys)

    def at(self, rows: Integers) -> Numbers:
        """Selects rows."""
        return Numbers(self.keys[rows])

    def distinct(self) -> int:
        """Counts the different values."""
        return len(np.unique(self.keys[self.present]))

    def whole(self) -> bool:
        """Returns whether all values are integers."""
        present = self.keys[self.present]
        return bool((present == np.round(present)).all())

    def as_texts(self) -> Texts:
        """Converts to strings, in the order of the numbers: 3 is ``"3"``, 0.5 is ``"0.5"``."""
        codes = np.full(len(self.keys), -1, dtype=np.int64)
        levels, codes[self.present] = np.unique(self.keys[self.present], return_inverse=True)
        return Texts(
            codes, tuple(f"{v:.0f}" if v == round(v) else repr(v) for v in levels.tolist())
        )


@dataclass(frozen=True)
class Texts:
    """A column of strings.

    Attributes:
        keys: For each row, the index of its string in `levels`; -1 for a missing one.
        levels: The different strings, in order.
    """

    keys: Integers
    levels: tuple[str, ...]

    @property
    def present(self) -> Mask:
        """A mask of the rows that have a value."""
        return self.keys >= 0

    def at(self, rows: Integers) -> Texts:
        """Selects rows."""
        return Texts(self.keys[rows], self.levels)

    def distinct(self) -> int:
        """Counts the different strings."""
        return len(np.unique(self.keys[self.present]))

    def not_numbers(self) -> Mask:
        """Returns a mask of the rows whose string is not a number."""
        faulty = [not _NUMBER.fullmatch(level) for level in self.levels]
        return np.array([*faulty, False])[self.keys]  # the key -1 takes the last one


Column = Numbers | Texts


def identifies(column: Column) -> bool:
    """Returns whether a column consists of strings that nearly all differ, such as names."""
    if isinstance(column, Numbers):
        return False
    return column.distinct() > max(_MANY, int(column.present.sum()) // 2)
