"""Rendered rooms and streets, with exact class, depth and normal of every pixel."""

from ._benchmark import Scenes
from ._layouts import LAYOUTS
from ._write import SceneSet, write_scenes

__all__ = ["LAYOUTS", "SceneSet", "Scenes", "write_scenes"]
