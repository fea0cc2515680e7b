"""Putting pieces together: things made of several solids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ._materials import Colour, Material
from ._render import Surface
from ._solids import Box, Solid, Sphere, Vector


@dataclass
class Builder:
    """Collects surfaces, and keeps account of the floor that is taken.

    Args:
        random: Decides all that is left open.
        classes: The names of the classes, in the order of their labels.
    """

    random: np.random.Generator
    classes: Sequence[str]
    surfaces: list[Surface] = field(default_factory=list)
    taken: list[tuple[float, float, float]] = field(default_factory=list)

    def add(self, name: str, solid: Solid, material: Material) -> None:
        """Adds a solid.

        Args:
            name: Its class.
            solid: The solid.
            material: Its look.
        """
        self.surfaces.append(Surface(solid, self.classes.index(name), material))

    def between(self, low: float, high: float) -> float:
        """Draws a number.

        Args:
            low: The least.
            high: The largest.

        Returns:
            The number.
        """
        return float(self.random.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Draws yes or no.

        Args:
            probability: That of yes.

        Returns:
            Which it is.
        """
        return bool(self.random.random() < probability)

    def shade(self, colours: Sequence[Colour], spread: float = 0.08) -> Colour:
        """Draws a colour near one of several.

        Args:
            colours: What to choose from.
            spread: How far it may lie from that.

        Returns:
            The colour.
        """
        base = colours[int(self.random.integers(len(colours)))]
        moved = np.clip(base + self.random.uniform(-spread, spread, 3), 0.03, 0.97)
        return float(moved[0]), float(moved[1]), float(moved[2])

    def place(self, x: float, z: float, radius: float) -> bool:
        """Takes a circle of the floor, if it is free.

        Args:
            x: The centre.
            z: The centre.
            radius: The radius.

        Returns:
            Whether it was free, and now is taken.
        """
        free = all(np.hypot(x - a, z - b) > radius + r for a, b, r in self.taken)
        if free:
            self.taken.append((x, z, radius))
        return free


@dataclass(frozen=True)
class Piece:
    """A thing that stands somewhere, whose parts are given in its own frame.

    There x is its width, y up from its foot, and z to its front.

    Args:
        builder: What collects its parts.
        x: Where it stands.
        z: Where it stands.
        yaw: Where its front points to: turned from z towards x.
        foot: The height that it stands at.
    """

    builder: Builder
    x: float
    z: float
    yaw: float = 0.0
    foot: float = 0.0

    def box(self, name: str, low: Vector, high: Vector, material: Material) -> None:
        """Adds a box.

        Args:
            name: Its class.
            low: The corner with the least coordinates.
            high: The opposite corner.
            material: Its look.
        """
        x, y, z = ((a + b) / 2 for a, b in zip(low, high, strict=True))
        w, h, d = ((b - a) / 2 for a, b in zip(low, high, strict=True))
        self.builder.add(name, Box(self._at(x, y, z), (w, h, d), self.yaw), material)

    def ball(self, name: str, centre: Vector, radius: float, material: Material) -> None:
        """Adds a sphere.

        Args:
            name: Its class.
            centre: Its centre.
            radius: Its radius.
            material: Its look.
        """
        self.builder.add(name, Sphere(self._at(*centre), radius), material)

    def on(self, x: float, y: float, z: float, yaw: float = 0.0) -> Piece:
        """Another piece, standing on this one.

        Args:
            x: Where, in this one's frame.
            y: The height above its foot.
            z: Where.
            yaw: How it is turned against this one.

        Returns:
            The piece.
        """
        at = self._at(x, y, z)
        return Piece(self.builder, at[0], at[2], self.yaw + yaw, at[1])

    def _at(self, x: float, y: float, z: float) -> Vector:
        c, s = float(np.cos(self.yaw)), float(np.sin(self.yaw))
        return self.x + c * x + s * z, self.foot + y, self.z - s * x + c * z
