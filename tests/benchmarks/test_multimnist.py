"""Two pictures in one image, from idx files made in the standard layout."""

from __future__ import annotations

import gzip
import os
import re
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from samo.benchmarks import Benchmark, DataError, Split, create
from samo.training import configured, train

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
NAMES = ("multimnist", "multifashion", "multifashion-mnist")
FOLDERS = {"mnist": 1, "fashion_mnist": 2}  # with the seed of its pictures
SIZES = {"train": 60, "t10k": 20}

Base = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def base(folder: str, part: str) -> Base:
    random = np.random.default_rng([FOLDERS[folder], SIZES[part]])
    images = random.integers(0, 256, (SIZES[part], 28, 28), dtype=np.uint8)
    return images, random.integers(0, 10, SIZES[part], dtype=np.uint8)


def idx(values: NDArray[np.uint8]) -> bytes:
    return (
        struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    )


def write(folder: Path, name: str, packed: Callable[[bytes], bytes] = gzip.compress) -> None:
    folder.mkdir(parents=True)
    suffix = ".gz" if packed is gzip.compress else ""
    for part in SIZES:
        for kind, values in zip(("images-idx3", "labels-idx1"), base(name, part), strict=True):
            (folder / f"{part}-{kind}-ubyte{suffix}").write_bytes(packed(idx(values)))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    write(root / "mnist", "mnist")
    write(root / "fashion_mnist", "fashion_mnist", packed=bytes)
    return root


SIZES_IN_PAIRS = {"pairs": 130, "validation_pairs": 35, "test_pairs": 45}


def made(name: str, data: Path, **options: Any) -> Benchmark:
    return create(name, data=str(data), **{**SIZES_IN_PAIRS, **options})


def whole(benchmark: Benchmark, split: Split) -> tuple[Tensor, Tensor, Tensor]:
    return next(iter(benchmark.batches(split, benchmark.tasks, batch_size=10_000)))


def corners(name: str) -> tuple[str, str]:
    return {
        "multimnist": ("mnist", "mnist"),
        "multifashion": ("fashion_mnist", "fashion_mnist"),
        "multifashion-mnist": ("mnist", "fashion_mnist"),
    }[name]


def found(x: Tensor, name: str, split: Split) -> tuple[list[int], list[int]]:
    """The base pictures of the images, by what no other picture covers of them."""
    part = "t10k" if split == "test" else "train"
    indices = []
    for corner, rows in zip(corners(name), (slice(0, 8), slice(28, 36)), strict=True):
        images, _ = base(corner, part)
        columns, of = (
            (slice(0, 28), images[:, :8]) if rows.start == 0 else (slice(8, 36), images[:, 20:])
        )
        known = {piece.tobytes(): i for i, piece in enumerate(of)}
        indices.append([known[x[n, 0, rows, columns].numpy().tobytes()] for n in range(len(x))])
    return indices[0], indices[1]


@pytest.mark.parametrize("name", NAMES)
def test_images_are_two_pictures_with_their_labels_and_splits_share_none(
    data: Path, name: str
) -> None:
    benchmark = made(name, data)
    used: dict[str, tuple[set[int], set[int]]] = {}
    for split in SPLITS:
        x, *labels = whole(benchmark, split)
        assert x.dtype == torch.uint8
        assert x.shape == ({"train": 130, "validation": 35, "test": 45}[split], 1, 36, 36)
        part = "t10k" if split == "test" else "train"
        left, right = found(x, name, split)
        used[split] = set(left), set(right)
        for n, pair in enumerate(zip(left, right, strict=True)):
            canvas = np.zeros((36, 36), dtype=np.uint8)
            for corner, index, at, label in zip(corners(name), pair, (0, 8), labels, strict=True):
                images, of = base(corner, part)
                for row in range(28):
                    there = canvas[at + row, at : at + 28]
                    canvas[at + row, at : at + 28] = np.where(
                        there > images[index, row], there, images[index, row]
                    )
                assert int(label[n]) == of[index]
            np.testing.assert_array_equal(x[n, 0].numpy(), canvas)
        # In each corner all pictures are used equally often, give or take one.
        for chosen in (left, right):
            times = Counter(chosen).values()
            assert max(times) - min(times) <= 1
            assert len(times) == {"train": 50, "validation": 10, "test": 20}[split]
    both = [set().union(*used[split]) for split in ("train", "validation")]
    if name != "multifashion-mnist":
        assert both[0].isdisjoint(both[1])
    for trained, held_out in zip(used["train"], used["validation"], strict=True):
        assert trained.isdisjoint(held_out)


def test_the_two_pictures_of_a_pair_are_drawn_independently(data: Path) -> None:
    left, right = found(whole(made("multimnist", data), "train")[0], "multimnist", "train")
    assert sum(a == b for a, b in zip(left, right, strict=True)) < 15


def test_fewer_pairs_are_a_prefix_and_do_not_change_the_test_set(data: Path) -> None:
    more, fewer = made("multimnist", data), made("multimnist", data, pairs=7)
    for a, b in zip(whole(more, "train"), whole(fewer, "train"), strict=True):
        assert torch.equal(a[:7], b)
    for split in ("validation", "test"):
        for a, b in zip(whole(more, split), whole(fewer, split), strict=True):
            assert torch.equal(a, b)


def test_the_data_depends_on_its_seed_only(data: Path) -> None:
    before = torch.get_rng_state()
    first = made("multimnist", data)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    np.random.rand()  # noqa: NPY002
    again, other = made("multimnist", data), made("multimnist", data, seed=1)
    for split in SPLITS:
        assert torch.equal(whole(first, split)[0], whole(again, split)[0])
        assert not torch.equal(whole(first, split)[0], whole(other, split)[0])


@pytest.mark.parametrize("place", [".", "fashion_mnist", "FashionMNIST/raw"])
@pytest.mark.parametrize("packed", [bytes, gzip.compress])
def test_files_are_found_in_every_supported_directory(
    data: Path, tmp_path: Path, place: str, packed: Callable[[bytes], bytes]
) -> None:
    write(tmp_path / "D" / place, "fashion_mnist", packed)
    expected, there = made("multifashion", data), made("multifashion", tmp_path / "D")
    assert torch.equal(whole(expected, "train")[0], whole(there, "train")[0])


def test_the_network_receives_pixels_in_0_to_1(data: Path) -> None:
    benchmark = made("multimnist", data, network="lenet")
    batch = next(iter(benchmark.batches("test", benchmark.tasks, 5)))
    seen = []

    def model(x: Tensor, tasks: Any) -> dict[str, Tensor]:
        seen.append(x)
        return {task: torch.zeros(len(x), 10) for task in tasks}

    outputs = benchmark.outputs(model, batch, ["right"])  # type: ignore[arg-type]
    assert list(outputs) == ["right"]
    assert torch.equal(outputs["right"][1], batch[2])
    np.testing.assert_allclose(
        seen[0].numpy(), batch[0].numpy().astype(np.float64) / 255, rtol=1e-6
    )


@pytest.mark.parametrize(("network", "width"), [("lenet", 2), ("resnet18", 2)])
@pytest.mark.parametrize("sharpness", ["erm", "samo"])
def test_training(data: Path, tmp_path: Path, sharpness: str, network: str, width: int) -> None:
    options = {"data": str(data), "network": network, "width": width}
    options |= {"pairs": 24, "validation_pairs": 8, "test_pairs": 8}
    config = configured(
        benchmark="multifashion-mnist",
        benchmark_options=options,
        sharpness=sharpness,
        epochs=1,
        batch_size=8,
    )
    results = train(config, tmp_path / "run")
    assert results["tasks"] == ["left", "right"]
    for scores in results["selected"]["test"].values():
        assert 0 <= scores["accuracy"] <= 100


def _replaced(path: str, content: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        (root / path).write_bytes(content((root / path).read_bytes()))

    return change


def _removed(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def _few(root: Path) -> None:
    (root / IMAGES).write_bytes(idx(np.zeros((2, 28, 28), np.uint8)))
    (root / LABELS).write_bytes(idx(np.zeros(2, np.uint8)))


RAW, ZIPPED = "fashion_mnist/train-{}-ubyte", "mnist/train-{}-ubyte.gz"
IMAGES, LABELS = RAW.format("images-idx3"), RAW.format("labels-idx1")

FAULTS: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing": (
        _removed(LABELS),
        f"{LABELS}[.gz] is missing. The directory should contain {{{{train,t10k}}}}-{{{{images",
    ),
    "not idx": (
        _replaced(IMAGES, lambda _: b"<html>not found</html>"),
        f"{IMAGES}: not an idx file of unsigned bytes with 3 dimension(s): it should begin with 00 "
        "00 08 03; it begins with 3c 68 74 6d",
    ),
    "empty": (_replaced(IMAGES, lambda _: b""), "it begins with nothing"),
    "floats": (
        _replaced(IMAGES, lambda c: c[:2] + b"\x0d" + c[3:]),
        f"{IMAGES}: not an idx file of unsigned bytes",
    ),
    "labels for images": (
        _replaced(IMAGES, lambda _: idx(np.zeros(60, np.uint8))),
        "it begins with 00 00 08 01",
    ),
    "within the header": (
        _replaced(IMAGES, lambda c: c[:9]),
        f"{IMAGES}: truncated: it ends within its header",
    ),
    "truncated": (
        _replaced(IMAGES, lambda c: c[:-1]),
        f"{IMAGES}: truncated: its header says 60 × 28 × 28 = 47040 bytes; 47039 follow",
    ),
    "too long": (
        _replaced(LABELS, lambda c: c + b"\0"),
        f"{LABELS}: too long: its header says 60 = 60 bytes; more follow",
    ),
    "another size": (
        _replaced(IMAGES, lambda _: idx(np.zeros((60, 8, 9), np.uint8))),
        f"{IMAGES}: images must have 28 × 28 pixels; found 8 × 9",
    ),
    "no images": (
        _replaced(IMAGES, lambda _: idx(np.zeros((0, 28, 28), np.uint8))),
        f"{IMAGES} contains no images",
    ),
    "numbers that disagree": (
        _replaced(LABELS, lambda _: idx(np.zeros(59, np.uint8))),
        f"train-images-idx3-ubyte contains 60 images, but {{root}}/{LABELS} contains 59 labels",
    ),
    "a label out of range": (
        _replaced(LABELS, lambda c: c[:10] + b"\x0a" + c[11:]),
        f"{LABELS}: labels must be in 0..9; found 10 at index 2",
    ),
    "truncated gzip": (
        _replaced(ZIPPED.format("images-idx3"), lambda c: c[: len(c) // 2]),
        "mnist/train-images-idx3-ubyte.gz: the gzip file is truncated or damaged (",
    ),
    "damaged gzip": (
        _replaced(ZIPPED.format("labels-idx1"), lambda c: c[:20] + bytes([c[20] ^ 255]) + c[21:]),
        "mnist/train-labels-idx1-ubyte.gz: the gzip file is truncated or damaged (",
    ),
    "too few": (
        _few,
        "fashion_mnist: 2 training images are too few to split",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_errors_name_the_file_and_the_fault(tmp_path: Path, fault: str) -> None:
    write(tmp_path / "mnist", "mnist")
    write(tmp_path / "fashion_mnist", "fashion_mnist", packed=bytes)
    spoil, message = FAULTS[fault]
    spoil(tmp_path)
    with pytest.raises(DataError, match=re.escape(message.format(root=tmp_path))):
        made("multifashion-mnist", tmp_path)


def test_a_missing_directory_raises_an_error(tmp_path: Path, data: Path) -> None:
    with pytest.raises(
        DataError, match=r"there is no directory .*/gone. It should contain mnist/\{train,t10k"
    ):
        made("multimnist", tmp_path / "gone")
    with pytest.raises(DataError, match=r"mnist/mnist is missing. .* fashion_mnist/\{train"):
        made("multifashion-mnist", data / "mnist")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pairs": 0}, "pairs must be at least 1; found 0"),
        ({"validation_pairs": 0}, "validation_pairs must be at least 1; found 0"),
        ({"test_pairs": 0}, "test_pairs must be at least 1; found 0"),
        ({"width": 0}, "width must be at least 1; found 0"),
        ({"seed": -1}, "seed must be at least 0; found -1"),
        ({"network": "lenet5"}, "unknown network 'lenet5', did you mean 'lenet'?"),
    ],
)
def test_invalid_options_raise_errors(data: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        made("multimnist", data, **options)


@pytest.mark.skipif("SAMO_DATA" not in os.environ, reason="SAMO_DATA names no real files")
@pytest.mark.parametrize(
    ("name", "folder"), [("multimnist", "mnist"), ("multifashion", "fashion_mnist")]
)
def test_real_files(name: str, folder: str) -> None:
    root = Path(os.environ["SAMO_DATA"])
    benchmark = made(name, root, pairs=2_000, test_pairs=10_000)
    x, left, right = whole(benchmark, "test")
    content = gzip.decompress((root / folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    pictures = np.frombuffer(content, np.uint8).reshape(-1, 28, 28)
    pieces = {picture[:8].tobytes() for picture in pictures}
    assert {piece.tobytes() for piece in x[:, 0, :8, :28].numpy()} == pieces
    # All 10,000 are in each corner once, and each class is there a thousand times.
    for labels in (left, right):
        counts = torch.bincount(labels, minlength=10)
        assert counts.sum() == 10_000
        assert counts.min() >= 850
        assert counts.max() <= 1_150
