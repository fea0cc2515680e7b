"""The reader of the MTAN layout, and its errors for invalid files."""

from __future__ import annotations

import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from samo.benchmarks import Cityscapes, DataError, NYUv2, create
from samo.benchmarks.dense._layout import LayoutExamples
from tests.layouts import SIZE, write_mtan

FIELDS = ("image", "segmentation", "depth", "normals")
FOLDERS = {"image": "image", "segmentation": "label", "depth": "depth", "normals": "normal"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mtan(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def copied(tmp_path: Path, whole: Path) -> Path:
    """Makes a copy to damage."""
    return Path(shutil.copytree(whole, tmp_path / "data"))


@pytest.mark.parametrize("window", [(slice(None), slice(None)), (slice(3, 20), slice(10, 41))])
def test_reading_agrees_with_numpy(whole: Path, window: Any) -> None:
    examples = LayoutExamples(whole / "train", FIELDS, 13)
    assert len(examples) == 6
    assert examples.size == SIZE
    for index in range(6):
        found = examples.read(index, FIELDS, window)
        for field, folder in FOLDERS.items():
            array = np.load(whole / "train" / folder / f"{index}.npy")[window]
            array = array[..., None] if array.ndim == 2 else array
            expected = np.moveaxis(array, -1, 0).astype(np.float32)
            np.testing.assert_array_equal(found[field].numpy(), expected)


def test_images_are_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    write_mtan(tmp_path, train=12)
    for folder in FOLDERS.values():  # 10 and 11 come after 9, and a gap does no harm
        (tmp_path / "train" / folder / "4.npy").unlink()
    examples = LayoutExamples(tmp_path / "train", FIELDS, 13)
    expected = [np.load(tmp_path / f"train/depth/{i}.npy")[0, 0, 0] for i in range(12) if i != 4]
    found = [examples.read(i, ["depth"])["depth"][0, 0, 0].item() for i in range(len(examples))]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("label", "classes"), [("label", 7), ("label_7", 7), ("label_19", 19)])
def test_labels_of_cityscapes_can_be_in_either_folder(
    tmp_path: Path, label: str, classes: int
) -> None:
    write_mtan(tmp_path, classes=classes, normals=False, label=label)
    benchmark = Cityscapes(data=tmp_path, classes=classes, width=2)
    assert len(benchmark.class_names) == classes
    batch = next(iter(benchmark.batches("test", ["segmentation"], 2)))
    expected = np.stack([np.load(tmp_path / "val" / label / f"{i}.npy") for i in range(2)])
    np.testing.assert_array_equal(batch["segmentation"].numpy(), expected)


def test_files_are_memory_mapped(whole: Path) -> None:
    examples = LayoutExamples(whole / "train", FIELDS, 13)
    assert isinstance(examples._open("image", 0), np.memmap)


def spoil(path: Path, **how: Any) -> None:
    array = np.load(path)
    if "shape" in how:
        array = np.zeros(how["shape"])
    if "value" in how:
        array.flat[5] = how["value"]
    np.save(path, array.astype(how.get("dtype", array.dtype)))


SPOILED: list[tuple[str, Any, str]] = [
    ("image/3.npy", {"shape": (32, 60, 3)}, "the shape must be (32, 64, 3); found (32, 60, 3)"),
    ("image/0.npy", {"shape": (32, 64)}, "the shape must be (H, W, 3); found (32, 64)"),
    ("label/2.npy", {"shape": (32, 64, 1)}, "the shape must be (32, 64); found (32, 64, 1)"),
    ("depth/5.npy", {"shape": (32, 64)}, "the shape must be (32, 64, 1); found (32, 64)"),
    ("normal/0.npy", {"shape": (32, 64, 1)}, "the shape must be (32, 64, 3); found (32, 64, 1)"),
    ("image/1.npy", {"dtype": np.uint8}, "must contain floating-point numbers; found uint8"),
    ("depth/1.npy", {"dtype": np.int64}, "must contain floating-point numbers; found int64"),
    ("label/1.npy", {"dtype": np.bool_}, "must contain numbers; found bool"),
]


@pytest.mark.parametrize(("name", "how", "message"), SPOILED)
def test_a_file_of_wrong_shape_or_type_raises_an_error(
    copied: Path, name: str, how: Any, message: str
) -> None:
    spoil(copied / "train" / name, **how)
    with pytest.raises(DataError, match=re.escape(message)) as error:
        NYUv2(data=copied)
    assert str(copied / "train" / name) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda whole: whole[:-100], "is truncated or damaged"),
        (lambda whole: whole[:40], "is truncated or damaged"),
        (lambda whole: b"", "is empty"),
        (lambda whole: pickle.dumps([1, 2, 3]), "is not a .npy file (a pickle, an archive?)"),
        (lambda whole: b"PK\x03\x04" + bytes(100), "is not a .npy file (a pickle, an archive?)"),
    ],
)
def test_a_damaged_file_raises_an_error(copied: Path, content: Any, message: str) -> None:
    path = copied / "val" / "depth" / "1.npy"
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(DataError, match=re.escape(f"{path} {message}")):
        NYUv2(data=copied)


class Trap:
    """Records that a pickle of it is loaded."""

    sprung = False

    def __reduce__(self) -> Any:
        return _spring, ()


def _spring() -> int:
    Trap.sprung = True
    return 0


@pytest.mark.parametrize("write", ["pickle", "objects"])
def test_a_pickle_is_never_loaded(copied: Path, write: str) -> None:
    path = copied / "train" / "image" / "2.npy"
    if write == "pickle":
        path.write_bytes(pickle.dumps(Trap()))
    else:
        np.save(path, np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=re.escape(str(path))) as error:
        NYUv2(data=copied)
    assert "pickle" in str(error.value)
    assert not Trap.sprung


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("label/1.npy", 13, "labels must be whole numbers in 0..12, or -1 for void; found 13"),
        ("label/1.npy", -2, "or -1 for void; found -2"),
        ("label/1.npy", 255, "or -1 for void; found 255"),
        ("label/1.npy", 2.5, "or -1 for void; found 2.5"),
        ("label/1.npy", np.nan, "or -1 for void; found nan"),
        ("depth/1.npy", np.nan, "a value is not finite"),
        ("depth/1.npy", np.inf, "a value is not finite"),
        ("depth/1.npy", 1e300, "a value is not finite"),  # in float32
        ("image/1.npy", -np.inf, "a value is not finite"),
        ("normal/1.npy", np.nan, "a value is not finite"),
    ],
)
def test_an_invalid_value_raises_an_error(
    copied: Path, name: str, value: float, message: str
) -> None:
    spoil(copied / "val" / name, value=value)
    benchmark = NYUv2(data=copied)  # headers are looked at here, values when they are read
    with pytest.raises(DataError, match=re.escape(message)) as error:
        list(benchmark.batches("test", benchmark.tasks, 1))
    assert str(copied / "val" / name) in str(error.value)
    task = {"label": "depth", "depth": "normals", "image": "", "normal": "depth"}[name[:-6]]
    if task:  # what is not needed is not read
        assert len(list(benchmark.batches("test", [task], 1))) == 2


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_a_file_without_counterpart_raises_an_error(copied: Path, folder: str) -> None:
    path = copied / "train" / folder / "3.npy"
    path.unlink()
    other = copied / "train" / ("depth" if folder == "image" else "image") / "3.npy"
    with pytest.raises(DataError, match=re.escape(f"{path} is missing")) as error:
        NYUv2(data=copied)
    assert folder == "image" or f"{other} has no counterpart" in str(error.value)


@pytest.mark.parametrize("name", ["seven.npy", "03.npy", "-1.npy", "1 (copy).npy"])
def test_a_file_name_must_be_a_number(copied: Path, name: str) -> None:
    path = copied / "train" / "depth" / name
    shutil.copy(copied / "train" / "depth" / "1.npy", path)
    with pytest.raises(DataError, match=re.escape(f"{path}: the name must be a number")):
        NYUv2(data=copied)


@pytest.mark.parametrize("folder", ["train/image", "val/normal", "val"])
def test_the_error_for_a_missing_directory_shows_the_layout(copied: Path, folder: str) -> None:
    shutil.rmtree(copied / folder)
    with pytest.raises(DataError, match="there is no directory") as error:
        NYUv2(data=copied)
    message = str(error.value)
    assert str(copied / folder) in message
    assert "DIR/train and DIR/val, each with <i>.npy in image (H, W, 3), label (H, W)" in message


def test_a_directory_without_images_raises_an_error(tmp_path: Path) -> None:
    write_mtan(tmp_path, train=0)
    with pytest.raises(
        DataError, match=re.escape(f"{tmp_path / 'train/image'} contains no <i>.npy")
    ):
        NYUv2(data=tmp_path)


def test_parts_must_have_one_image_size(tmp_path: Path) -> None:
    write_mtan(tmp_path / "a")
    write_mtan(tmp_path / "b", size=(64, 64))
    shutil.rmtree(tmp_path / "a" / "val")
    shutil.copytree(tmp_path / "b" / "val", tmp_path / "a" / "val")
    with pytest.raises(DataError, match=re.escape("train are (32, 64), those of val (64, 64)")):
        NYUv2(data=tmp_path / "a")


def test_the_network_requires_multiples_of_32(tmp_path: Path) -> None:
    write_mtan(tmp_path, size=(32, 50))
    with pytest.raises(ValueError, match="must be multiples of 32; found 32 and 50"):
        NYUv2(data=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 0.0}, "validation must be a share in (0, 1); found 0.0"),
        ({"validation": 1.0}, "validation must be a share in (0, 1); found 1.0"),
        ({"validation": 0.99}, "validation = 0.99 takes 6 of the 6 training images"),
        ({"network": "segnet_mtan"}, "unknown network 'segnet_mtan', did you mean 'segnet-mtan'?"),
        ({"width": 0}, "width must be at least 1; found 0"),
        ({"classes": 8}, "classes must be 7 or 19; found 8"),
    ],
)
def test_invalid_options_raise_errors(whole: Path, options: Any, message: str) -> None:
    kind: Any = Cityscapes if "classes" in options else NYUv2
    with pytest.raises(ValueError, match=re.escape(message)):
        kind(data=whole, **options)


def test_the_data_must_be_given() -> None:
    for name in ("cityscapes", "nyuv2"):
        with pytest.raises(ValueError, match=f"benchmark '{name}' needs the option 'data'"):
            create(name)


def test_validation_images_are_held_out_of_train_by_the_seed(tmp_path: Path) -> None:
    write_mtan(tmp_path, train=20, val=3)

    def seen(split: Any, seed: int) -> set[float]:
        benchmark = NYUv2(data=tmp_path, validation=0.25, seed=seed)
        return {float(b["image"][0, 0, 0, 0]) for b in benchmark.batches(split, ["depth"], 1)}

    train, validation, test = (seen(split, 0) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (15, 5, 3)
    assert not train & validation
    files = {
        part: {
            float(np.float32(np.load(path)[0, 0, 0]))
            for path in (tmp_path / part / "image").glob("*.npy")
        }
        for part in ("train", "val")
    }
    assert train | validation == files["train"]
    assert test == files["val"]
    assert seen("validation", 0) == validation
    assert seen("validation", 1) != validation
    assert seen("test", 1) == test


def test_splitting_does_not_change_the_global_generator(whole: Path) -> None:
    before = torch.get_rng_state()
    NYUv2(data=whole)
    assert torch.equal(torch.get_rng_state(), before)
