"""Ray casting: an image, with the exact class, depth and normal of its pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, cast

import numpy as np

from ._materials import Material
from ._solids import Array, Solid, Vector

VOID = -1
_FAR = 150.0  # metres; the sky is beyond


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    The ray of the pixel in row i and column j is o + t d, with
    d = forward + a · right + b · up, a = (j + ½ − W/2) / F, b = (H/2 − i − ½) / F and
    F = focal · W. Hence t is the depth: the distance along the optical axis.

    Args:
        position: o, in metres.
        yaw: The rotation from z towards x, in radians.
        pitch: The rotation upwards, in radians.
        roll: The rotation clockwise, in radians.
        focal: The focal length in widths of the image.
    """

    position: Vector
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    focal: float = 0.9

    @cached_property
    def axes(self) -> Array:
        """The directions right, up and forward, as rows."""
        cy, sy, cp, sp = (f(a) for a in (self.yaw, self.pitch) for f in (np.cos, np.sin))
        forward = np.array([sy * cp, sp, cy * cp])
        level, upright = np.array([cy, 0.0, -sy]), np.array([-sy * sp, cp, -cy * sp])
        c, s = np.cos(self.roll), np.sin(self.roll)
        return np.stack([c * level - s * upright, s * level + c * upright, forward])

    def rays(self, height: int, width: int) -> Array:
        """Computes the directions d of all pixels, shape ``[3, H, W]``."""
        right, up, forward = self.axes[:, :, None, None]
        a = (np.arange(width) + 0.5 - width / 2) / (self.focal * width)
        b = (height / 2 - np.arange(height) - 0.5) / (self.focal * width)
        return cast(Array, forward + right * a[None, :] + up * b[:, None])

    def window(self, solid: Solid, height: int, width: int) -> tuple[slice, slice] | None:
        """Bounds the rows and columns that can show a solid; None if it is not visible."""
        corners = solid.corners()
        whole = slice(0, height), slice(0, width)
        if corners is None:
            return whole
        x, y, z = self.axes @ (corners - np.array(self.position)[:, None])
        if z.max() < 0:
            return None
        if z.min() < 1e-3:  # partly behind the camera: the corners do not bound the outline
            return whole
        columns = _span(x / z * self.focal * width + width / 2, width)
        rows = _span(height / 2 - y / z * self.focal * width, height)
        return (rows, columns) if rows and columns else None


def _span(places: Array, size: int) -> slice | None:
    first, last = max(int(places.min()) - 1, 0), min(int(places.max()) + 2, size)
    return slice(first, last) if first < last else None


@dataclass(frozen=True)
class Surface:
    """A solid with its class and its appearance.

    Args:
        solid: The solid.
        label: The class.
        material: The appearance.
    """

    solid: Solid
    label: int
    material: Material


@dataclass(frozen=True)
class Scene:
    """Surfaces, a camera and a light.

    Args:
        surfaces: All surfaces. No solid may enclose the camera.
        camera: The camera.
        light: The position of the light.
        brightness: The brightness of the light at perpendicular incidence.
        ambient: The brightness of the ambient light.
        sky: The class of the sky.
        horizon: The colour of the sky at the horizon; it becomes bluer above.
        noise: The standard deviation of the camera's noise.
    """

    surfaces: tuple[Surface, ...]
    camera: Camera
    light: Vector
    brightness: float = 0.8
    ambient: float = 0.35
    sky: int = VOID
    horizon: tuple[float, float, float] = (0.8, 0.85, 0.9)
    noise: float = 0.02


class Rendered(NamedTuple):
    """An image with the targets of its pixels.

    Attributes:
        image: Red, green and blue; uint8, shape ``[H, W, 3]``.
        label: The class; int8, shape ``[H, W]``.
        depth: The distance along the optical axis in metres, 0 in the sky; float32, shape
            ``[H, W]``.
        normal: The unit normal of the surface in the camera's frame (x to the right, y up, z
            towards the camera), zeros in the sky; float32, shape ``[H, W, 3]``.
    """

    image: Array
    label: Array
    depth: Array
    normal: Array


def render(scene: Scene, height: int, width: int, random: np.random.Generator) -> Rendered:
    """Renders a scene with height × width pixels; `random` is the source of the camera's noise."""
    origin = np.array(scene.camera.position)
    rays = scene.camera.rays(height, width)
    depth, nearest = _cast(scene, origin, rays)
    rays, depth, nearest = rays.reshape(3, -1), depth.ravel(), nearest.ravel()
    order = np.argsort(nearest, kind="stable")
    begins = np.searchsorted(nearest[order], np.arange(-1, len(scene.surfaces) + 1))

    colour = _sky(scene, rays)
    label = np.full(len(nearest), scene.sky)
    normals = np.zeros_like(rays)
    lit = order[begins[1] :]  # the pixels of surfaces
    points = np.zeros_like(rays)
    points[:, lit] = origin[:, None] + depth[lit] * rays[:, lit]
    gloss, glow = np.zeros(len(nearest)), np.zeros(len(nearest))
    for k, surface in enumerate(scene.surfaces):
        seen = order[begins[k + 1] : begins[k + 2]]
        if len(seen):
            at = points[:, seen]
            colour[:, seen] = surface.material.colours(surface.solid.local(at))
            normals[:, seen] = surface.solid.normals(at)
            label[seen] = surface.label
            gloss[seen], glow[seen] = surface.material.gloss, surface.material.glow
    colour[:, lit] = _shaded(
        scene, colour[:, lit], points[:, lit], normals[:, lit], rays[:, lit], gloss[lit], glow[lit]
    )
    colour += scene.noise * random.standard_normal(colour.shape)
    seen_normals = scene.camera.axes @ normals
    seen_normals[2] *= -1
    shape = (height, width)
    return Rendered(
        (255 * colour.clip(0, 1) + 0.5).astype(np.uint8).T.reshape(*shape, 3),
        label.astype(np.int8).reshape(shape),
        np.where(nearest >= 0, depth, 0.0).astype(np.float32).reshape(shape),
        seen_normals.astype(np.float32).T.reshape(*shape, 3),
    )


def _cast(scene: Scene, origin: Array, rays: Array) -> tuple[Array, Array]:
    """Returns the depth and the index of the nearest surface of each pixel (−1 for the sky)."""
    height, width = rays.shape[1:]
    depth = np.full((height, width), _FAR)
    nearest = np.full((height, width), -1)
    for k, surface in enumerate(scene.surfaces):
        window = scene.camera.window(surface.solid, height, width)
        if window is not None:
            t = surface.solid.distances(origin, rays[:, *window])
            closer = t < depth[window]
            depth[window] = np.where(closer, t, depth[window])
            nearest[window][closer] = k
    return depth, nearest


def _shaded(
    scene: Scene,
    colour: Array,
    points: Array,
    normals: Array,
    rays: Array,
    gloss: Array,
    glow: Array,
) -> Array:
    """Shades by Lambert's law with hard shadows, a highlight, and ambient light."""
    to_light = np.array(scene.light)[:, None] - points
    direction = to_light / np.sqrt((to_light * to_light).sum(axis=0))
    cosine = (normals * direction).sum(axis=0).clip(0)
    cosine *= _visible(scene, points + 1e-4 * normals, to_light, np.flatnonzero(cosine > 0))
    mirrored = rays - 2 * (rays * normals).sum(axis=0) * normals
    mirrored /= np.sqrt((rays * rays).sum(axis=0))
    highlight = gloss * (mirrored * direction).sum(axis=0).clip(0) ** 20 * (cosine > 0)
    everywhere = scene.ambient * (0.8 + 0.2 * normals[1])
    return cast(Array, colour * (everywhere + glow + scene.brightness * cosine) + highlight)


def _visible(scene: Scene, points: Array, to_light: Array, chosen: Array) -> Array:
    """Returns 1 for each chosen point that is not in a shadow, and 0 for all other points."""
    visible = np.zeros(points.shape[1])
    visible[chosen] = 1.0
    solids = [s.solid for s in scene.surfaces if not s.material.glow]
    casters = [(solid, c) for solid in solids if (c := solid.corners()) is not None]
    points, to_light = points[:, chosen], to_light[:, chosen]
    corners = np.reshape([c for _, c in casters], (-1, 3, 8))
    near = _in_cones(scene.light, corners, to_light)
    for (solid, _), candidates in zip(casters, near, strict=True):
        some = np.flatnonzero(candidates)
        hidden = solid.distances(points[:, some], to_light[:, some]) < 1
        visible[chosen[some[hidden]]] = 0.0
    return visible


def _in_cones(light: Vector, corners: Array, to_light: Array) -> Array:
    """Determines which points can be in the shadow of which solids.

    These are the points within the cone from the light around the sphere through the corners. The
    test avoids nine of ten rays.

    Args:
        light: The position of the light.
        corners: The corners of each of n solids, shape ``[n, 3, 8]``.
        to_light: The vectors from m points to the light, shape ``[3, m]``.

    Returns:
        A mask of shape ``[n, m]``.
    """
    centres = corners.mean(axis=2)
    radius = np.linalg.norm(corners[:, :, 0] - centres, axis=1)
    axes = np.array(light) - centres
    distance = np.linalg.norm(axes, axis=1)
    cosine = np.sqrt(1 - np.minimum(radius / distance, 1) ** 2)
    length = np.sqrt((to_light * to_light).sum(axis=0))
    along = (axes / distance[:, None]) @ to_light
    return cast(Array, along >= cosine[:, None] * length)


def _sky(scene: Scene, rays: Array) -> Array:
    """Returns the colour of the sky in each direction."""
    height = (rays[1] / np.sqrt((rays * rays).sum(axis=0))).clip(0, 1)
    zenith = np.array([0.35, 0.55, 0.85])[:, None]
    horizon = np.array(scene.horizon)[:, None]
    return cast(Array, horizon + (zenith - horizon) * np.sqrt(height))
