"""Planes, boxes and spheres, and their intersections with rays.

World coordinates are in metres: x to the right, y up, z forward. Points and directions are float64
arrays whose first axis has the three coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Protocol, cast

import numpy as np

Array = np.ndarray
Vector = tuple[float, float, float]

# Closer intersections are with the surface that the ray starts from, and are ignored.
_NEAR = 1e-6
_CORNERS = np.array(list(product((-1.0, 1.0), repeat=3))).T


class Solid(Protocol):
    """An object that intersects with rays."""

    def distances(self, origin: Array, directions: Array) -> Array:
        """Intersects rays with the solid, from outside.

        Args:
            origin: Shape ``[3]``, or that of the directions.
            directions: Shape ``[3, ..]``, of any length.

        Returns:
            The t of the points ``origin + t · direction``, infinite for a miss; shape ``[..]``.
        """

    def normals(self, points: Array) -> Array:
        """Returns the outward unit normals at points of the surface, shape ``[3, n]``."""

    def local(self, points: Array) -> Array:
        """Converts points to the solid's frame, to which its texture is fixed; shape ``[3, n]``."""

    def corners(self) -> Array | None:
        """Returns the corners of a bounding box, ``[3, 8]``; None if the solid is infinite."""


@dataclass(frozen=True)
class InfinitePlane:
    """An infinite plane, visible from the side that its normal points to.

    With normal n and a point p of the plane, a ray o + t d intersects it at t = n·(p − o) / n·d.

    Args:
        point: A point of the plane.
        normal: A unit vector.
    """

    point: Vector
    normal: Vector

    def distances(self, origin: Array, directions: Array) -> Array:
        n = np.array(self.normal)
        slope = np.tensordot(n, directions, 1)
        height = np.dot(n, self.point) - np.tensordot(n, origin, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = height / slope
        return np.where((slope < 0) & (t > _NEAR), t, np.inf)

    def normals(self, points: Array) -> Array:
        return np.broadcast_to(np.array(self.normal)[:, None], points.shape)

    def local(self, points: Array) -> Array:
        return cast(Array, points - np.array(self.point)[:, None])

    def corners(self) -> Array | None:
        return None


@dataclass(frozen=True)
class Cuboid:
    """An upright box, rotated about the vertical axis.

    In its frame, a ray is between each pair of faces for t in [min_a, max_a], a = x, y, z. It
    intersects the box at the largest of the minima, if that is less than the smallest maximum.

    Args:
        centre: The centre.
        half: Half of the width, height and depth.
        yaw: The angle of its front from z towards x, in radians.
    """

    centre: Vector
    half: Vector
    yaw: float = 0.0

    def distances(self, origin: Array, directions: Array) -> Array:
        start = self._turned(_minus(origin, self.centre))
        along = self._turned(directions)
        near, far = -np.inf, np.inf
        with np.errstate(divide="ignore", invalid="ignore"):
            for a in range(3):
                inverse = 1.0 / along[a]
                middle = -start[a] * inverse
                reach = np.abs(self.half[a] * inverse)
                near, far = np.maximum(near, middle - reach), np.minimum(far, middle + reach)
        return np.where((near < far) & (near > _NEAR), near, np.inf)

    def normals(self, points: Array) -> Array:
        local = self.local(points)
        relative = local / np.array(self.half)[:, None]
        axis = np.abs(relative).argmax(axis=0)
        found = np.zeros_like(local)
        each = np.arange(local.shape[1])
        found[axis, each] = np.sign(relative[axis, each])
        return self._turned(found, back=True)

    def local(self, points: Array) -> Array:
        return self._turned(_minus(points, self.centre))

    def corners(self) -> Array | None:
        turned = self._turned(_CORNERS * np.array(self.half)[:, None], back=True)
        return cast(Array, turned + np.array(self.centre)[:, None])

    def _turned(self, v: Array, *, back: bool = False) -> Array:
        """Rotates vectors from the world's axes to the box's, or back."""
        if self.yaw == 0.0:
            return v
        c, s = np.cos(self.yaw), np.sin(self.yaw) * (-1 if back else 1)
        turned = np.empty_like(v)
        turned[0], turned[1], turned[2] = c * v[0] - s * v[2], v[1], s * v[0] + c * v[2]
        return turned


@dataclass(frozen=True)
class Sphere:
    """A sphere.

    With m = o − c, a ray o + t d intersects it at the smaller root of
    (d·d) t² + 2 (m·d) t + m·m − r².

    Args:
        centre: The centre c.
        radius: The radius r.
    """

    centre: Vector
    radius: float

    def distances(self, origin: Array, directions: Array) -> Array:
        m = _minus(origin, self.centre)
        a = (directions * directions).sum(axis=0)
        b = m[0] * directions[0] + m[1] * directions[1] + m[2] * directions[2]
        with np.errstate(invalid="ignore"):
            t = (-b - np.sqrt(b * b - a * ((m * m).sum(axis=0) - self.radius**2))) / a
        return np.where(t > _NEAR, t, np.inf)

    def normals(self, points: Array) -> Array:
        return self.local(points) / self.radius

    def local(self, points: Array) -> Array:
        return _minus(points, self.centre)

    def corners(self) -> Array | None:
        return Cuboid(self.centre, (self.radius,) * 3).corners()


def _minus(points: Array, centre: Vector) -> Array:
    return cast(Array, points - np.array(centre).reshape(3, *[1] * (points.ndim - 1)))
