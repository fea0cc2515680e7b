"""Office-Home, from files made in its layout."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from samo.benchmarks import DataError, OfficeHome, Split
from samo.training import configured, train
from tests.benchmarks import pictures

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
Batch = dict[str, tuple[Tensor, Tensor]]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("office-home")
    pictures.office_home(root, ("Mug", "Bed", "Alarm_Clock"), each=6)
    (root / "ImageInfo.csv").write_text("not an image")
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Makes a small set to damage."""
    pictures.office_home(tmp_path / "D", each=4)
    return tmp_path / "D"


def whole(benchmark: OfficeHome, split: Split) -> Batch:
    (batch,) = benchmark.batches(split, benchmark.tasks, batch_size=1000)
    return batch


def test_images_are_read_back_and_splits_are_disjoint(published: Path) -> None:
    benchmark = OfficeHome(data=published)
    assert benchmark.tasks == pictures.DOMAINS
    classes = ["Alarm_Clock", "Bed", "Mug"]
    for task in benchmark.tasks:
        files = sorted((published / task).glob("*/*.jpg"))
        expected = {pictures.resized(f, 224).tobytes(): classes.index(f.parent.name) for f in files}
        assert len(expected) == len(files)
        seen: list[bytes] = []
        for split in SPLITS:
            for image, label in zip(*whole(benchmark, split)[task], strict=True):
                seen.append(image.numpy().tobytes())
                assert expected[seen[-1]] == int(label)
        assert sorted(seen) == sorted(expected)


@pytest.mark.parametrize("task", pictures.DOMAINS)
def test_each_class_is_split_60_20_20(published: Path, task: str) -> None:
    benchmark = OfficeHome(data=published)
    n = {
        split: torch.bincount(whole(benchmark, split)[task][1], minlength=3).tolist()
        for split in SPLITS
    }
    clocks = 6 + pictures.DOMAINS.index(task)
    assert n["train"] == [round(0.6 * clocks), 4, 4]
    assert n["validation"] == [round(0.2 * clocks), 1, 1]
    assert n["test"] == [clocks - n["train"][0] - n["validation"][0], 1, 1]


def test_the_split_depends_on_its_seed_only(published: Path) -> None:
    before = torch.get_rng_state()
    first, again, other = (OfficeHome(data=published, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    x, y, z = (whole(benchmark, "train")["Art"][0] for benchmark in (first, again, other))
    assert torch.equal(x, y)
    assert not torch.equal(x, z)


def test_loaders_of_smaller_domains_restart_in_training(published: Path) -> None:
    benchmark = OfficeHome(data=published)
    batches = benchmark.batches("train", benchmark.tasks, 4, Generator().manual_seed(0))
    n = len(whole(benchmark, "train")["Real World"][1])
    epoch = list(batches)
    assert len(epoch) == len(batches) == n // 4  # a last batch that is not full is left out
    for batch in epoch:
        assert tuple(batch) == benchmark.tasks
        assert {len(labels) for _, labels in batch.values()} == {4}
    once = list(benchmark.batches("train", benchmark.tasks, 4))
    for task in benchmark.tasks:
        images = sum(len(batch[task][1]) for batch in once if task in batch)
        assert images == len(whole(benchmark, "train")[task][1])


@pytest.mark.parametrize("augment", [False, True])
def test_order_and_crops_depend_on_the_generator_only(published: Path, augment: bool) -> None:
    benchmark = OfficeHome(data=published, augment=augment)
    tasks = ["Clipart", "Art"]
    generator = Generator().manual_seed(5)
    batches = benchmark.batches("train", tasks, 4, generator)
    epochs = [torch.cat([b[t][0] for b in batches for t in tasks]) for _ in range(2)]
    assert not torch.equal(*epochs)
    generator.manual_seed(5)
    torch.rand(3)
    assert torch.equal(torch.cat([b[t][0] for b in batches for t in tasks]), epochs[0])


def test_augmented_images_are_crops_of_larger_ones(published: Path) -> None:
    plain = OfficeHome(data=published)
    benchmark = OfficeHome(data=published, augment=True)
    files = sorted((published / "Art").glob("*/*.jpg"))
    large = torch.from_numpy(np.stack([pictures.resized(f, 256) for f in files]))
    windows = large.unfold(2, 224, 1).unfold(3, 224, 1)  # [N, 3, 33, 33, 224, 224], a view
    generator = Generator().manual_seed(0)
    found = set()
    for _ in range(3):
        for batch in benchmark.batches("train", ["Art"], 4, generator):
            for image in batch["Art"][0]:
                for mirrored in (False, True):
                    x = image.flip(2) if mirrored else image
                    # Four pixels tell most places apart; what is left is compared whole.
                    near = torch.stack(
                        [
                            (windows[..., i, j] == x[:, i, j].view(1, 3, 1, 1)).all(1)
                            for i, j in ((0, 0), (0, 223), (223, 0), (111, 57), (40, 180))
                        ]
                    ).all(0)
                    for n, top, left in near.nonzero().tolist():
                        if torch.equal(windows[n, :, top, left], x):
                            found.add((n, top, left, mirrored))
    assert len({place[0] for place in found}) >= 8
    assert {place[3] for place in found} == {False, True}
    assert len({place[1:3] for place in found}) > 10
    # Without a generator: the middle.
    x, y = whole(benchmark, "test")["Art"]
    assert x.shape[1:] == (3, 224, 224)
    middles = {windows[n, :, 16, 16].contiguous().numpy().tobytes() for n in range(len(files))}
    assert all(image.contiguous().numpy().tobytes() in middles for image in x)
    assert torch.equal(y, whole(plain, "test")["Art"][1])


def test_the_network_receives_pixels_normalised_as_for_imagenet(published: Path) -> None:
    benchmark = OfficeHome(data=published)
    batch = whole(benchmark, "test")
    seen = []

    def model(x: Tensor, tasks: Any) -> dict[str, Tensor]:
        seen.append(x)
        return {task: torch.zeros(len(x), 3) for task in tasks}

    outputs = benchmark.outputs(model, batch, ["Clipart"])  # type: ignore[arg-type]
    assert list(outputs) == ["Clipart"]
    x = batch["Clipart"][0].numpy().astype(np.float64)
    for channel, (mean, std) in enumerate([(0.485, 0.229), (0.456, 0.224), (0.406, 0.225)]):
        expected = (x[:, channel] / 255 - mean) / std
        np.testing.assert_allclose(seen[0][:, channel].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert benchmark.outputs(model, {"Art": batch["Art"]}, ["Clipart"]) == {}  # type: ignore[arg-type]


@pytest.mark.parametrize("sharpness", ["erm", "samo"])
def test_training(data: Path, tmp_path: Path, sharpness: str) -> None:
    config = configured(
        benchmark="office-home",
        benchmark_options={"data": str(data), "width": 1},
        sharpness=sharpness,
        epochs=1,
        batch_size=3,
    )
    results = train(config, tmp_path / "run")
    assert results["tasks"] == list(pictures.DOMAINS)
    for scores in results["selected"]["test"].values():
        assert 0 <= scores["accuracy"] <= 100
    assert results["config"]["weight_decay"] == 1e-5


def test_weights_are_loaded(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    backbone: Any = OfficeHome(data=data).model()
    weights = tmp_path / "resnet18.pth"
    torch.save(backbone.trunk[0].state_dict(), weights)
    torch.manual_seed(2)
    other: Any = OfficeHome(data=data, weights=weights).model()
    for name, value in other.trunk[0].state_dict().items():
        assert torch.equal(value, backbone.trunk[0].state_dict()[name])
    assert not torch.equal(other.heads["Art"].weight, backbone.heads["Art"].weight)


def test_the_folder_may_be_named_as_in_the_published_experiments(data: Path) -> None:
    expected = whole(OfficeHome(data=data), "train")["Real World"][0].clone()
    (data / "Real World").rename(data / "Real_World")
    assert torch.equal(whole(OfficeHome(data=data), "train")["Real World"][0], expected)


def _without(*names: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for name in names:
            shutil.rmtree(root / name)

    return change


def _emptied(root: Path) -> None:
    for image in (root / "Clipart/Bed").iterdir():
        image.rename(image.with_suffix(".txt"))


def _renamed(root: Path) -> None:
    (root / "Product/Bed").rename(root / "Product/Bett")


def _corrupted(root: Path) -> None:
    image = root / "Product/Bed/00002.jpg"
    image.write_bytes(image.read_bytes()[:-200])


def _few(root: Path) -> None:
    for image in [*root.glob("*/*/0000[2-9].jpg")]:
        image.unlink()


FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "no domain": (
        _without("Clipart"),
        "/Clipart is missing. The directory should contain Art/<class>/",
    ),
    "no classes": (_without("Art/Bed", "Art/Alarm_Clock"), "/Art has no classes: it should have"),
    "a class less": (
        _without("Product/Bed"),
        "all domains must have the same classes, but compared with Art Product lacks Bed.",
    ),
    "another class": (
        _renamed,
        "all domains must have the same classes, but compared with Art Product lacks Bed and "
        "Product also has Bett.",
    ),
    "an empty class": (_emptied, "/Clipart/Bed has no images (jpg or png)."),
    "a corrupted image": (_corrupted, "Product/Bed/00002.jpg: cannot be decoded as an image ("),
    "too few": (_few, ": Art has too few images: none for validation."),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_errors_name_the_file_and_the_fault(data: Path, fault: str) -> None:
    spoil, message = FAULTS[fault]
    spoil(data)
    with pytest.raises(DataError, match=re.escape(message)):
        OfficeHome(data=data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, "width must be at least 1; found 0"),
        ({"seed": -1}, "seed must be at least 0; found -1"),
        ({"weights": "gone.pth"}, "weights: there is no file gone.pth"),
        ({"data": "gone"}, "there is no directory gone. It should contain Art/<class>/*.jpg"),
    ],
)
def test_invalid_options_raise_errors(data: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        OfficeHome(**{"data": data, **options})
