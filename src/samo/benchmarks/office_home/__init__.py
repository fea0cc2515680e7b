"""Office-Home: the same 65 classes of objects in four domains."""

from ._benchmark import OfficeHome

__all__ = ["OfficeHome"]
