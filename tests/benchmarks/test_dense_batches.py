"""Shuffling, augmentation and prefetching."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from samo.benchmarks import NYUv2
from samo.benchmarks.dense._batches import (
    SCALES,
    Augmentation,
    augmented,
    prefetched,
    random_augmentations,
)
from samo.benchmarks.dense._layout import LayoutExamples
from tests.layouts import write_mtan

FIELDS = ("image", "segmentation", "depth", "normals")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mtan(tmp_path_factory.mktemp("mtan"), train=10, dtype=np.float32)


@pytest.fixture(scope="module")
def examples(root: Path) -> LayoutExamples:
    return LayoutExamples(root / "train", FIELDS, 13)


def published(whole: dict[str, Tensor], scale: float, i: int, j: int, flip: bool) -> Any:
    """The augmentation as described: cut h/scale × w/scale out at (i, j), resize, flip."""
    height, width = whole["image"].shape[-2:]
    h, w = int(height / scale), int(width / scale)
    found = {}
    for field, tensor in whole.items():
        smooth = field in ("image", "normals")
        options: dict[str, Any] = {"mode": "nearest"}
        if smooth:
            options = {"mode": "bilinear", "align_corners": True}
        cut = tensor[:, i : i + h, j : j + w]
        found[field] = F.interpolate(cut[None], size=(height, width), **options)[0]
    found["depth"] = found["depth"] / scale
    if flip:
        found = {field: torch.flip(tensor, dims=[2]) for field, tensor in found.items()}
        found["normals"] = found["normals"] * torch.tensor([-1.0, 1.0, 1.0]).view(3, 1, 1)
    return found


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.5, 0.3), (0.999999, 0.999999)])
def test_augmentation_is_the_published_one(
    examples: LayoutExamples, scale: float, flip: bool, corner: tuple[float, float]
) -> None:
    whole = examples.read(3, FIELDS)
    height, width = examples.size
    h, w = int(height / scale), int(width / scale)
    i, j = int(corner[0] * (height - h + 1)), int(corner[1] * (width - w + 1))
    found = augmented(examples, 3, FIELDS, Augmentation(scale, *corner, flip))
    for field, expected in published(whole, scale, i, j, flip).items():
        # Interpolation sums four products of values below 5, each rounded to float32: on either
        # side an error of about 4 · 5 · 6e-8.
        torch.testing.assert_close(found[field], expected, rtol=0, atol=3e-6)
    assert set(found["segmentation"].unique().tolist()) <= set(range(-1, 13))


def test_a_mirrored_wall_is_the_wall_of_the_mirrored_image() -> None:
    """A plane's normal, recomputed from the mirrored depth, is the mirrored normal."""

    class Wall:
        size = (32, 64)

        def __len__(self) -> int:
            return 1

        def read(self, index: int, fields: Any, window: Any = None) -> dict[str, Tensor]:
            normal = torch.tensor([0.6, 0.0, 0.8]).view(3, 1, 1).expand(3, *self.size)
            a = (torch.arange(64) + 0.5 - 32) / 64
            depth = 2 / (0.8 - 0.6 * a)  # n·(a z, b z, −z) = −2
            return {
                "normals": normal.clone(),
                "depth": depth.expand(1, *self.size).clone(),
            }

    found = augmented(Wall(), 0, ("normals", "depth"), Augmentation(mirrored=True))
    a = (torch.arange(64) + 0.5 - 32) / 64
    points = torch.stack([a * found["depth"][0, 0], -found["depth"][0, 0]])
    offsets = (found["normals"][[0, 2], 0] * points).sum(dim=0)
    torch.testing.assert_close(offsets, torch.full((64,), -2.0))


def test_augmentations_are_drawn_uniformly() -> None:
    changes = random_augmentations(6000, Generator().manual_seed(0))
    counts = [sum(change.scale == scale for change in changes) for scale in SCALES]
    assert all(abs(count - 2000) < 150 for count in counts)
    assert abs(sum(change.mirrored for change in changes) - 3000) < 150
    for places in ([c.top for c in changes], [c.left for c in changes]):
        assert np.histogram(places, bins=5, range=(0, 1))[0] == pytest.approx(1200, abs=150)


def content(batches: Any) -> list[dict[str, Tensor]]:
    return list(batches)


def same(one: list[dict[str, Tensor]], other: list[dict[str, Tensor]]) -> bool:
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
        for a, b in zip(one, other, strict=True)
    )


def test_order_and_augmentation_depend_on_the_generator_only(root: Path) -> None:
    def epochs(benchmark: NYUv2, seed: int) -> list[list[dict[str, Tensor]]]:
        generator = Generator().manual_seed(seed)
        batches = benchmark.batches("train", benchmark.tasks, 3, generator)
        return [content(batches) for _ in range(2)]

    benchmark = NYUv2(data=root)
    first = epochs(benchmark, 0)
    torch.rand(5)
    again, other = epochs(NYUv2(data=root), 0), epochs(benchmark, 1)
    assert same(first[0], again[0])
    assert same(first[1], again[1])
    assert not same(first[0], first[1])
    assert not same(first[0], other[0])


def test_the_second_epoch_continues_from_the_generator_s_state(root: Path) -> None:
    benchmark = NYUv2(data=root)
    generator = Generator().manual_seed(0)
    batches = benchmark.batches("train", benchmark.tasks, 3, generator)
    content(batches)
    state = generator.get_state()
    second = content(batches)
    resumed = Generator()
    resumed.set_state(state)
    assert same(second, content(benchmark.batches("train", benchmark.tasks, 3, resumed)))


def test_a_single_task_sees_the_same_images(root: Path) -> None:
    benchmark = NYUv2(data=root)
    batches = [
        content(benchmark.batches("train", tasks, 4, Generator().manual_seed(0)))
        for tasks in (benchmark.tasks, ["depth"])
    ]
    for every, depth in zip(*batches, strict=True):
        assert set(depth) == {"image", "depth"}
        assert torch.equal(every["image"], depth["image"])
        assert torch.equal(every["depth"], depth["depth"])


def test_an_epoch_has_every_image_once(tmp_path: Path) -> None:
    write_mtan(tmp_path, train=10)
    for i in range(10):  # of one brightness each, which augmentation does not change
        np.save(tmp_path / f"train/image/{i}.npy", np.full((32, 64, 3), i / 10))
    benchmark = NYUv2(data=tmp_path, validation=0.2)

    def brightnesses(generator: Generator | None) -> list[int]:
        batches = benchmark.batches("train", ["depth"], 3, generator)
        assert len(batches) == 3
        return [round(10 * float(i.mean())) for batch in batches for i in batch["image"]]

    ordered, shuffled = brightnesses(None), brightnesses(Generator().manual_seed(0))
    assert ordered == sorted(ordered)
    assert len(set(ordered)) == 8
    assert shuffled != ordered
    assert sorted(shuffled) == ordered


def test_shapes_and_types(root: Path) -> None:
    benchmark = NYUv2(data=root)
    batch = next(iter(benchmark.batches("train", benchmark.tasks, 2, Generator())))
    found = {name: (tuple(t.shape), t.dtype) for name, t in batch.items()}
    assert found == {
        "image": ((2, 3, 32, 64), torch.float32),
        "segmentation": ((2, 32, 64), torch.int64),
        "depth": ((2, 1, 32, 64), torch.float32),
        "normals": ((2, 3, 32, 64), torch.float32),
    }


def test_a_task_without_targets_is_left_out(tmp_path: Path) -> None:
    write_mtan(tmp_path, train=3, val=2)
    for name, value in (("label", -1.0), ("depth", 0.0), ("normal", 0.0)):
        path = tmp_path / "val" / name / "0.npy"
        np.save(path, np.full_like(np.load(path), value))
    benchmark = NYUv2(data=tmp_path, width=2, validation=0.4)
    first, second = benchmark.batches("test", benchmark.tasks, 1)
    assert set(first) == {"image"}
    assert set(second) == {"image", *benchmark.tasks}
    model = benchmark.model()
    assert benchmark.losses(model, first, benchmark.tasks) == {}
    assert list(benchmark.losses(model, second, ["depth"])) == ["depth"]
    (both,) = benchmark.batches("test", benchmark.tasks, 2)
    losses = benchmark.losses(model, both, benchmark.tasks)
    assert all(loss.isfinite() for loss in losses.values())


def test_batches_are_in_order_whatever_their_loading_times() -> None:
    release = [threading.Event() for _ in range(6)]

    def make(i: int) -> int:
        if i % 2 == 0:
            release[i].wait(5)
        for event in release:
            event.set()
        return i

    assert list(prefetched(make, range(6))) == list(range(6))


def test_only_a_few_batches_are_prefetched() -> None:
    made: list[int] = []
    iterator = prefetched(lambda i: made.append(i), range(100))
    next(iterator)
    next(iterator)
    assert len(made) <= 8
    iterator.close()  # type: ignore[attr-defined]
    assert len(made) <= 8


def test_an_error_in_a_thread_is_raised_in_the_loop() -> None:
    def make(i: int) -> int:
        if i == 3:
            raise ValueError("of the third")
        return i

    iterator = prefetched(make, range(10))
    assert list(itertools.islice(iterator, 3)) == [0, 1, 2]
    with pytest.raises(ValueError, match="of the third"):
        next(iterator)


def test_leaving_the_loop_ends_its_threads(root: Path) -> None:
    benchmark = NYUv2(data=root)
    before = threading.active_count()
    for _ in benchmark.batches("train", benchmark.tasks, 1):
        break
    assert threading.active_count() == before
