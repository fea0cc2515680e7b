"""CelebA, from files made in its layout."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score
from torch import Generator, Tensor

from samo.benchmarks import CelebA, DataError, Split, _images
from samo.training import configured, train
from tests.benchmarks import pictures

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
ATTRIBUTES, PARTITION = "Anno/list_attr_celeba.txt", "Eval/list_eval_partition.txt"
IMAGES = "Img/img_align_celeba"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("celeba")
    pictures.celeba(root)
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Makes a small set to damage."""
    pictures.celeba(tmp_path / "D", (2, 1, 1), ["Bald", "Male", "Young"])
    return tmp_path / "D"


def caches(folder: Path) -> list[Path]:
    return sorted(folder.glob("samo-cache/*.npy"))


def whole(benchmark: CelebA, split: Split) -> tuple[Tensor, Tensor]:
    return next(iter(benchmark.batches(split, benchmark.tasks, batch_size=1000)))


def test_images_and_labels_are_read_back(published: Path) -> None:
    benchmark = CelebA(data=published)
    lines = (published / ATTRIBUTES).read_text().splitlines()
    labels = {line.split()[0]: line.split()[1:] for line in lines[2:]}
    assert benchmark.tasks == tuple(lines[1].split())
    assert len(benchmark.tasks) == 40
    partition = [line.split() for line in (published / PARTITION).read_text().splitlines()]
    for number, split in enumerate(SPLITS):
        names = [name for name, of in partition if of == str(number)]
        x, y = whole(benchmark, split)
        assert x.shape == (len(names), 3, 64, 64)
        for name, image, row in zip(names, x, y, strict=True):
            expected = pictures.resized(published / IMAGES / name, 64)
            np.testing.assert_array_equal(image.numpy(), expected)
            assert [1 if label == "1" else 0 for label in labels[name]] == row.tolist()


def test_the_network_receives_pixels_in_0_to_1_and_the_requested_tasks(
    published: Path,
) -> None:
    benchmark = CelebA(data=published, width=1)
    x, labels = whole(benchmark, "train")
    seen = []

    def model(x: Tensor, tasks: Any) -> dict[str, Tensor]:
        seen.append(x)
        return {task: torch.full((len(x),), 0.3) for task in tasks}

    outputs = benchmark.outputs(model, (x, labels), ["Young", "Bald"])  # type: ignore[arg-type]
    np.testing.assert_allclose(seen[0].numpy(), x.numpy() / 255.0, rtol=1e-6)
    for task, column in {"Young": 39, "Bald": 4}.items():
        logits, target = outputs[task]
        assert torch.equal(target, labels[:, column])
        expected = np.mean(np.log1p(np.exp(0.3)) - 0.3 * target.numpy())
        assert benchmark.loss(task, logits, target).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("spread", [0.4, 5.0])  # in the first, some batches lie within [0, 1]
def test_metrics_depend_on_the_sign_of_the_logits(published: Path, spread: float) -> None:
    metrics = CelebA(data=published).metrics["Male"]
    generator = Generator().manual_seed(0)
    batches = [
        (spread * (torch.rand(4, generator=generator) - shift), torch.tensor([0, 1, 1, 0]).byte())
        for shift in (0.0, 0.5, 0.8)
    ]
    predicted = np.concatenate([logits.numpy() > 0 for logits, _ in batches])
    target = np.concatenate([labels.numpy() for _, labels in batches])
    expected = {"F1": f1_score(target, predicted), "accuracy": accuracy_score(target, predicted)}
    assert next(iter(metrics)) == "F1"
    for name, metric in metrics.items():
        meter = metric.make()
        for logits, labels in batches:
            meter.update(logits, labels)
        assert metric.scale * float(meter.compute()) == pytest.approx(100 * expected[name])


@pytest.mark.parametrize("sharpness", ["erm", "samo"])
def test_training(published: Path, tmp_path: Path, sharpness: str) -> None:
    # SAMO evaluates the network several times a task: a few tasks are enough.
    tasks = pictures.ATTRIBUTES[:3] if sharpness == "samo" else pictures.ATTRIBUTES
    config = configured(
        benchmark="celeba",
        benchmark_options={"data": str(published), "width": 1},
        tasks=tuple(tasks),
        sharpness=sharpness,
        epochs=1,
        batch_size=4,
    )
    steps = []
    results = train(config, tmp_path / "run", watch=lambda p: steps.append(p.step))
    # The ninth image makes no batch of its own, which batch normalisation could not use.
    assert steps == [1, 2, 0]
    assert results["tasks"] == list(tasks)
    for scores in results["selected"]["test"].values():
        assert list(scores) == ["F1", "accuracy", "loss"]
    assert results["config"]["rho"] == (1e-3 if sharpness == "samo" else None)


def test_images_are_decoded_once(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = whole(CelebA(data=data), "train")[0].clone()
    assert len(caches(data)) == 1
    decode = _images._decode
    decoded: list[str] = []

    def counting(file: Path, side: int) -> bytes:
        decoded.append(file.name)
        return decode(file, side)

    monkeypatch.setattr(_images, "_decode", counting)
    again = CelebA(data=data)
    assert decoded == []
    x = whole(again, "train")[0]
    assert torch.equal(x, first)
    # What is done to the pixels in memory stays there.
    again._pixels.zero_()
    assert torch.equal(whole(CelebA(data=data), "train")[0], first)

    changed = data / IMAGES / "000002.jpg"
    Image.new("RGB", (178, 218), (200, 10, 10)).save(changed)
    renewed = CelebA(data=data)
    assert sorted(decoded) == [f"{i:06d}.jpg" for i in range(1, 5)]
    assert len(caches(data)) == 2
    every = torch.cat([whole(renewed, split)[0] for split in SPLITS])
    assert any(np.array_equal(x, pictures.resized(changed, 64)) for x in every.numpy())


def test_the_cache_can_be_in_another_directory(data: Path, tmp_path: Path) -> None:
    CelebA(data=data, cache=tmp_path / "fast" / "disk")
    assert not caches(data)
    assert len(list((tmp_path / "fast/disk").glob("celeba-64x64-*.npy"))) == 1


def test_a_cache_that_cannot_be_written(data: Path) -> None:
    (data / "samo-cache").write_text("a file")
    with pytest.raises(DataError, match=r"cannot be written .* set `cache` to another directory"):
        CelebA(data=data)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: content[:-5], "is truncated or damaged: mmap length is greater"),
        (lambda content: content[:20], "is truncated or damaged: "),
        (lambda content: b"\x80\x04pickle", "is not a .npy file (a pickle, an archive?)"),
        (
            lambda content: content[:-999] + bytes([content[-999] ^ 1]) + content[-998:],
            "is damaged: its pixels do not match their checksum. Delete it to create it again.",
        ),
        (
            lambda content: content.replace(b"(4, 3, 64, 64)", b"(3, 4, 64, 64)"),
            "is damaged: it contains uint8 of shape (3, 4, 64, 64) instead of uint8 of",
        ),
    ],
)
def test_a_damaged_cache(data: Path, spoil: Callable[[bytes], bytes], message: str) -> None:
    CelebA(data=data)
    (cache,) = caches(data)
    cache.write_bytes(spoil(cache.read_bytes()))
    with pytest.raises(DataError, match=re.escape(f"{cache} {message}")):
        CelebA(data=data)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[: len(content) // 2],
        lambda _: b"<html>not found</html>",
        lambda _: b"",
    ],
)
def test_an_image_that_cannot_be_decoded_leaves_no_cache(
    data: Path, spoil: Callable[[bytes], bytes]
) -> None:
    image = data / IMAGES / "000003.jpg"
    image.write_bytes(spoil(image.read_bytes()))
    with pytest.raises(DataError, match=r"000003\.jpg: cannot be decoded as an image \("):
        CelebA(data=data)
    assert not caches(data)
    assert not list((data / "samo-cache").glob("*.new"))


def edited(path: str, line: int, text: str | None) -> Callable[[Path], None]:
    """Replaces a line, counted from 1, or removes it."""

    def change(root: Path) -> None:
        lines = (root / path).read_text().splitlines()
        lines[line - 1 : line] = [] if text is None else [text]
        pictures.write(root / path, lines)

    return change


def _without_two(root: Path) -> None:
    for name in ("000002.jpg", "000003.jpg"):
        (root / IMAGES / name).unlink()


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no attributes": (lambda root: (root / ATTRIBUTES).unlink(), f"{ATTRIBUTES} is missing. The"),
    "no partition": (lambda root: (root / PARTITION).unlink(), f"{PARTITION} is missing. The"),
    "no images": (lambda root: shutil.rmtree(root / IMAGES), f"{IMAGES} is missing. The directory"),
    "no text": (
        lambda root: (root / ATTRIBUTES).write_bytes(b"\xff\xfe\x80"),
        f"{ATTRIBUTES} is not a text file",
    ),
    "empty": (
        lambda root: (root / ATTRIBUTES).write_text(""),
        f"{ATTRIBUTES}, line 1: must be the number of images; found ''",
    ),
    "no count": (
        edited(ATTRIBUTES, 1, None),
        f"{ATTRIBUTES}, line 1: must be the number of images; found 'Bald Male Young '",
    ),
    "a wrong count": (
        edited(ATTRIBUTES, 1, "5"),
        f"{ATTRIBUTES}: line 1 says 5 images, but 4 lines of labels follow",
    ),
    "a line too few": (
        edited(ATTRIBUTES, 6, None),
        f"{ATTRIBUTES}: line 1 says 4 images, but 3 lines of labels follow",
    ),
    "an attribute twice": (
        edited(ATTRIBUTES, 2, "Bald Male Bald"),
        f"{ATTRIBUTES}, line 2: must be the names of the attributes, each once; found 'Bald Male",
    ),
    "no attribute names": (
        edited(ATTRIBUTES, 2, "   "),
        f"{ATTRIBUTES}, line 2: must be the names of the attributes, each once; found '   '",
    ),
    "an attribute too many": (
        edited(ATTRIBUTES, 2, "Bald Male Young Bangs"),
        f"{ATTRIBUTES}, line 3: must be an image and 4 labels; found 3 labels",
    ),
    "a label too few": (
        edited(ATTRIBUTES, 4, "000002.jpg 1 -1"),
        f"{ATTRIBUTES}, line 4: must be an image and 3 labels; found 2 labels",
    ),
    "a label that is none": (
        edited(ATTRIBUTES, 4, "000002.jpg 1 0 -1"),
        f"{ATTRIBUTES}, line 4: labels must be 1 or -1; found '0' for Male",
    ),
    "an image listed twice": (
        edited(ATTRIBUTES, 4, "000001.jpg 1 1 -1"),
        f"{ATTRIBUTES}, line 4: 000001.jpg is listed for the second time",
    ),
    "an unknown image": (
        edited(PARTITION, 2, "999999.jpg 0"),
        f"{PARTITION}, line 2: {{root}}/{ATTRIBUTES} does not list '999999.jpg'",
    ),
    "an unknown split": (
        edited(PARTITION, 2, "000002.jpg 3"),
        f"{PARTITION}, line 2: must be an image and 0, 1 or 2; found '000002.jpg 3'",
    ),
    "no split": (
        edited(PARTITION, 2, "000002.jpg"),
        f"{PARTITION}, line 2: must be an image and 0, 1 or 2; found '000002.jpg'",
    ),
    "an image in two splits": (
        edited(PARTITION, 2, "000001.jpg 0"),
        f"{PARTITION}, line 2: 000001.jpg is listed for the second time",
    ),
    "an image in no split": (
        edited(PARTITION, 4, None),
        f"{PARTITION} leaves out 1 of the 4 images of {{root}}/{ATTRIBUTES}: 000004.jpg",
    ),
    "an empty split": (
        lambda root: pictures.write(
            root / PARTITION, [f"00000{i}.jpg {i % 2}" for i in range(1, 5)]
        ),
        f"{PARTITION} has no images for test (2)",
    ),
    "missing images": (
        _without_two,
        f"{IMAGES} lacks 2 of the 4 images that {{root}}/{ATTRIBUTES} lists: 000002.jpg, 000003",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_errors_name_the_file_and_the_fault(data: Path, fault: str) -> None:
    spoil, message = FAULTS[fault]
    spoil(data)
    with pytest.raises(DataError, match=re.escape(message.format(root=data))):
        CelebA(data=data)
    assert not (data / "samo-cache").exists()


def test_invalid_options_raise_errors(data: Path) -> None:
    with pytest.raises(ValueError, match="width must be at least 1; found 0"):
        CelebA(data=data, width=0)
    with pytest.raises(
        DataError, match=r"there is no directory .*/gone\. It should contain Img/img_al"
    ):
        CelebA(data=data / "gone")
