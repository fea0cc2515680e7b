"""Ray casting agrees with closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from samo.benchmarks import dense
from samo.benchmarks.scenes import _materials
from samo.benchmarks.scenes._layouts import LAYOUTS
from samo.benchmarks.scenes._materials import Material
from samo.benchmarks.scenes._render import Camera, Rendered, Scene, Surface, render
from samo.benchmarks.scenes._solids import Cuboid, InfinitePlane, Sphere

HEIGHT, WIDTH = 40, 56
GREY = Material((0.5, 0.5, 0.5))
CAMERA = Camera((0.3, 1.2, -0.4), yaw=0.3, pitch=-0.2, roll=0.1, focal=0.8)


def shot(*solids: Any, camera: Camera = CAMERA, light: Any = (0.0, 5.0, 0.0)) -> Rendered:
    surfaces = tuple(Surface(solid, k, GREY) for k, solid in enumerate(solids))
    scene = Scene(surfaces, camera, light, noise=0.0)
    return render(scene, HEIGHT, WIDTH, np.random.default_rng(0))


def basis(camera: Camera) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right, up and forward by successive rotations: pitch, then yaw; roll about the axis."""

    def about_y(v: np.ndarray, angle: float) -> np.ndarray:
        x, y, z = v
        return np.array(
            [x * np.cos(angle) + z * np.sin(angle), y, z * np.cos(angle) - x * np.sin(angle)]
        )

    right, up, forward = np.eye(3)
    c, s = np.cos(camera.pitch), np.sin(camera.pitch)
    up, forward = np.array([0, c, -s]), np.array([0, s, c])
    right, up, forward = (about_y(v, camera.yaw) for v in (right, up, forward))
    c, s = np.cos(camera.roll), np.sin(camera.roll)
    return c * right - s * up, s * right + c * up, forward


def pixels(camera: Camera, height: int = HEIGHT, width: int = WIDTH) -> Any:
    """Row, column and unit direction of each pixel, by a loop."""
    right, up, forward = basis(camera)
    for i in range(height):
        for j in range(width):
            a = (j + 0.5 - width / 2) / (camera.focal * width)
            b = (height / 2 - i - 0.5) / (camera.focal * width)
            d = forward + a * right + b * up
            yield i, j, d / np.linalg.norm(d), d


def points(image: Rendered, camera: Camera) -> np.ndarray:
    """The depth, reprojected to world coordinates; shape [H, W, 3]."""
    height, width = image.depth.shape
    found = np.zeros((height, width, 3))
    for i, j, _, d in pixels(camera, height, width):
        found[i, j] = camera.position + image.depth[i, j] * d
    return found


def in_world(image: Rendered, camera: Camera) -> np.ndarray:
    """The normals in world coordinates."""
    right, up, forward = basis(camera)
    x, y, z = np.moveaxis(image.normal.astype(float), -1, 0)[..., None]
    return x * right + y * up - z * forward


def test_depth_and_normals_of_a_plane() -> None:
    """Depth is n·(p − o) / n·d times the cosine between the ray and the optical axis."""
    n, p = np.array([0.0, 0.6, -0.8]), np.array([0.0, 0.5, 4.0])
    image = shot(InfinitePlane(tuple(p), tuple(n)))
    forward = basis(CAMERA)[2]
    seen = 0
    for i, j, direction, _ in pixels(CAMERA):
        slope = n @ direction
        distance = n @ (p - CAMERA.position) / slope
        if slope < 0 and distance > 0:
            seen += 1
            expected = distance * (direction @ forward)
            assert image.label[i, j] == 0 or expected > 149
            if image.label[i, j] == 0:
                assert image.depth[i, j] == pytest.approx(expected, rel=1e-5)
        else:
            assert (image.label[i, j], image.depth[i, j]) == (-1, 0)
    assert seen > 500
    hit = image.label == 0
    np.testing.assert_allclose(in_world(image, CAMERA)[hit], np.tile(n, (hit.sum(), 1)), atol=1e-6)


def test_depth_and_normals_of_a_sphere() -> None:
    """By the distance of the centre from the ray: t = c·u − √(r² − |c − (c·u) u|²)."""
    centre, r = np.array([1.2, 0.9, 3.0]), 0.8
    image = shot(Sphere(tuple(centre), r))
    forward = basis(CAMERA)[2]
    for i, j, direction, _ in pixels(CAMERA):
        c = centre - CAMERA.position
        along = c @ direction
        beside = np.linalg.norm(c - along * direction)
        assert (image.label[i, j] == 0) == (beside < r)
        if beside < r:
            expected = (along - np.sqrt(r**2 - beside**2)) * (direction @ forward)
            assert image.depth[i, j] == pytest.approx(expected, rel=1e-5)
    hit = image.label == 0
    assert hit.sum() > 100
    radial = (points(image, CAMERA) - centre)[hit] / r
    np.testing.assert_allclose(in_world(image, CAMERA)[hit], radial, atol=1e-5)


@pytest.mark.parametrize("yaw", [0.0, 0.4, -2.0])
def test_depth_and_normals_of_a_box(yaw: float) -> None:
    """Its points are on its faces, and no ray that misses it passes through it."""
    centre, half = np.array([1.1, 0.8, 3.2]), np.array([0.7, 0.4, 0.5])
    image = shot(Cuboid(tuple(centre), tuple(half), yaw))
    c, s = np.cos(yaw), np.sin(yaw)
    axes = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])  # the box's own, in world coordinates
    local = (points(image, CAMERA) - centre) @ axes.T
    hit = image.label == 0
    assert hit.sum() > 100
    inside = np.abs(local[hit]) / half
    np.testing.assert_allclose(inside.max(axis=1), 1, atol=1e-5)
    face = inside.argmax(axis=1)
    normal = np.sign(local[hit][np.arange(len(face)), face])[:, None] * axes[face]
    np.testing.assert_allclose(in_world(image, CAMERA)[hit], normal, atol=1e-6)
    for i, j, _, d in pixels(CAMERA):
        along = np.array(CAMERA.position) + np.linspace(0.1, 8, 400)[:, None] * d
        within = (np.abs((along - centre) @ axes.T) < half - 0.03).all(axis=1).any()
        assert not within or hit[i, j]


def test_a_pixel_shows_the_closest_surface() -> None:
    """Two spheres and a wall: each pixel shows the one that is nearest along its ray."""
    solids = (
        Sphere((1.0, 1.0, 3.0), 0.6),
        Sphere((1.3, 1.1, 3.4), 0.8),
        InfinitePlane((0.0, 0.0, 6.0), (0.0, 0.0, -1.0)),
    )
    alone = [shot(solid) for solid in solids]
    depths = np.stack([np.where(a.label == 0, a.depth, np.inf) for a in alone])
    together = shot(*solids)
    assert set(np.unique(together.label)) == {0, 1, 2}
    np.testing.assert_array_equal(together.label, depths.argmin(axis=0))
    np.testing.assert_array_equal(together.depth, depths.min(axis=0))


def test_the_window_of_a_solid_is_not_too_small() -> None:
    """Casting only the rays of a solid's window changes nothing, wherever it is."""
    random = np.random.default_rng(0)
    rays = CAMERA.rays(HEIGHT, WIDTH)
    for _ in range(300):
        centre = tuple(random.uniform((-4, -2, -3), (5, 4, 8)))
        solid: Any = Sphere(centre, random.uniform(0.1, 1.5))
        if random.random() < 0.7:
            solid = Cuboid(centre, tuple(random.uniform(0.02, 1.5, 3)), random.uniform(-3, 3))
        whole = np.isfinite(solid.distances(np.array(CAMERA.position), rays))
        window = CAMERA.window(solid, HEIGHT, WIDTH)
        if window is not None:
            whole[window] = False
        assert not whole.any()


def test_light_and_shadow() -> None:
    """On a floor under a lamp: Lambert's law, and dark exactly where a sphere is in between."""
    lamp, centre, r = np.array([0.0, 4.0, 4.0]), np.array([0.4, 1.0, 4.0]), 0.4
    camera = Camera((0.0, 3.0, 0.0), pitch=-0.6, focal=0.8)
    white = Material((1.0, 1.0, 1.0), other=(1.0, 1.0, 1.0))
    surfaces = (
        Surface(InfinitePlane((0, 0, 0), (0, 1, 0)), 0, white),
        Surface(Sphere(tuple(centre), r), 1, white),
    )
    scene = Scene(surfaces, camera, tuple(lamp), brightness=0.6, ambient=0.2, noise=0.0)
    image = render(scene, HEIGHT, WIDTH, np.random.default_rng(0))
    at = points(image, camera)
    dark = 0
    for i, j in zip(*np.nonzero((image.label == 0) & (image.depth < 20)), strict=True):
        to_light = lamp - at[i, j]
        u = to_light / np.linalg.norm(to_light)
        c = centre - at[i, j]
        gap = np.linalg.norm(c - (c @ u) * u) - r
        shadow = gap < 0
        dark += int(shadow)
        if abs(gap) > 1e-3:
            expected = 255 * (0.2 + (0 if shadow else 0.6 * u[1]))
            assert image.image[i, j] == pytest.approx(expected, abs=0.6)
    assert dark > 10


@pytest.fixture(scope="module", params=["nyuv2", "cityscapes"])
def scenes(request: pytest.FixtureRequest) -> list[tuple[Scene, Rendered]]:
    kind = LAYOUTS[request.param]
    found = []
    for index in range(4):
        random = np.random.default_rng([7, 0, index])
        scene = kind.build(random, kind.classes)
        found.append((scene, render(scene, 48, 64, random)))
    return found


def test_normals_are_unit_vectors_that_face_the_camera(scenes: Any) -> None:
    for scene, image in scenes:
        hit = image.depth > 0
        lengths = np.linalg.norm(image.normal, axis=-1)
        np.testing.assert_allclose(lengths[hit], 1, atol=1e-6)
        assert not lengths[~hit].any()
        world = in_world(image, scene.camera)
        for i, j, direction, _ in pixels(scene.camera, 48, 64):
            assert not hit[i, j] or world[i, j] @ direction < 1e-9


def on_surface(solid: Any, point: np.ndarray) -> float:
    """How far a point is from a solid's surface."""
    if isinstance(solid, InfinitePlane):
        return float(abs((point - solid.point) @ np.array(solid.normal)))
    if isinstance(solid, Sphere):
        return float(abs(np.linalg.norm(point - solid.centre) - solid.radius))
    c, s = np.cos(solid.yaw), np.sin(solid.yaw)
    x, y, z = point - solid.centre
    beyond = np.abs([c * x - s * z, y, s * x + c * z]) - solid.half
    outside = np.linalg.norm(beyond.clip(0))
    return float(outside + abs(min(beyond.max(), 0)))


def test_reprojected_depth_is_on_a_surface_of_the_pixel_s_class(scenes: Any) -> None:
    for scene, image in scenes:
        at = points(image, scene.camera)
        hits = np.argwhere(image.depth > 0)
        for i, j in hits[:: max(len(hits) // 25, 1)]:
            label = image.label[i, j]
            gaps = [on_surface(s.solid, at[i, j]) for s in scene.surfaces if s.label == label]
            assert min(gaps) < 1e-6 * 150


def test_every_pixel_has_a_class_and_only_the_sky_has_no_depth(scenes: Any) -> None:
    for scene, image in scenes:
        assert image.label.min() >= 0
        np.testing.assert_array_equal(image.depth == 0, image.label == scene.sky)


def test_the_camera_is_outside_of_all_solids() -> None:
    for kind in LAYOUTS.values():
        for index in range(40):
            scene = kind.build(np.random.default_rng([3, 0, index]), kind.classes)
            eye = np.array(scene.camera.position)
            for surface in scene.surfaces:
                solid = surface.solid
                if isinstance(solid, Cuboid):
                    c, s = np.cos(solid.yaw), np.sin(solid.yaw)
                    x, y, z = eye - solid.centre
                    local = np.abs([c * x - s * z, y, s * x + c * z])
                    assert (local > np.array(solid.half) + 0.05).any()
                elif isinstance(solid, Sphere):
                    assert np.linalg.norm(eye - solid.centre) > solid.radius + 0.05


def test_all_classes_occur() -> None:
    for name, kind in LAYOUTS.items():
        seen = np.zeros(len(kind.classes), dtype=int)
        for index in range(14):
            random = np.random.default_rng([5, 0, index])
            image = render(kind.build(random, kind.classes), 32, 48, random)
            seen += np.bincount(np.unique(image.label), minlength=len(kind.classes))
        assert seen.min() >= 1, (name, dict(zip(kind.classes, seen, strict=True)))


@pytest.mark.parametrize(
    "pattern",
    ["unpatterned", "grain", "checker", "stripes", "planks", "bricks", "panes", "spines"],
)
def test_patterns_mix_two_colours(pattern: str) -> None:
    points = np.random.default_rng(0).uniform(-20, 20, (3, 2000))
    material = Material((0.2, 0.3, 0.4), (0.9, 0.8, 0.7), getattr(_materials, pattern), size=0.7)
    colours = material.colours(points)
    assert colours.min() >= 0.2 - 1e-9
    assert colours.max() <= 0.9 + 1e-9
    assert colours.std(axis=1).min() > 0.005


def test_the_classes_are_those_of_the_data_sets() -> None:
    assert LAYOUTS["nyuv2"].classes == dense.NYUV2_CLASSES
    assert LAYOUTS["cityscapes"].classes == dense.CITYSCAPES_CLASSES[7]
