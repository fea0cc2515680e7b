"""Rendered rooms and streets, with exact class, depth and normal of every pixel."""

from ._benchmark import Scenes

__all__ = ["Scenes"]
