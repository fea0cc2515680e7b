"""The text files of CelebA: attributes and splits of the images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .._benchmark import Split
from .._errors import DataError
from .._folders import raise_missing

IMAGES = "Img/img_align_celeba"
ATTRIBUTES = "Anno/list_attr_celeba.txt"
PARTITION = "Eval/list_eval_partition.txt"
LAYOUT = (f"{IMAGES}/*.jpg", ATTRIBUTES, PARTITION)

_LABELS = {"1": 1, "-1": 0}
_SPLITS: dict[str, Split] = {"0": "train", "1": "validation", "2": "test"}


@dataclass(frozen=True)
class Lists:
    """The content of the text files.

    Attributes:
        names: The file names of the images.
        attributes: The names of the attributes.
        labels: 0 or 1, uint8, shape ``[images, attributes]``.
        rows: The images of each split.
    """

    names: list[str]
    attributes: tuple[str, ...]
    labels: Tensor
    rows: dict[Split, Tensor]


def read_lists(data: Path) -> Lists:
    """Returns the content of both files, after a check that all images exist.

    Raises:
        DataError: If a file or an image is missing, a file is invalid, or the files contradict each
            other.
    """
    names, attributes, labels = _attributes(data / ATTRIBUTES)
    rows = _partition(data / PARTITION, names, data / ATTRIBUTES)
    folder = data / IMAGES
    if not folder.is_dir():
        raise_missing(folder, LAYOUT)
    with os.scandir(folder) as entries:
        present = {entry.name for entry in entries}
    absent = [name for name in names if name not in present]
    if absent:
        raise DataError(
            f"{folder} lacks {len(absent)} of the {len(names)} images that {data / ATTRIBUTES} "
            f"lists: {', '.join(absent[:3])}{' ..' if len(absent) > 3 else ''}"
        )
    return Lists(names, attributes, labels, rows)


def _lines(path: Path) -> list[str]:
    """Returns the lines of a file, without empty lines at its end."""
    try:
        return path.read_text(encoding="utf-8").rstrip().splitlines()
    except FileNotFoundError:
        raise_missing(path, LAYOUT)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file: {error}.") from error


def _attributes(path: Path) -> tuple[list[str], tuple[str, ...], Tensor]:
    """Reads the number of images, the attribute names, and a line of 1 and -1 per image."""
    lines = _lines(path)
    count, header = (lines[i] if i < len(lines) else "" for i in range(2))
    if not count.strip().isdecimal():
        raise DataError(f"{path}, line 1: must be the number of images; found {count!r}.")
    attributes = tuple(header.split())
    if not attributes or len(set(attributes)) < len(attributes):
        raise DataError(
            f"{path}, line 2: must be the names of the attributes, each once; found {header!r}."
        )
    if len(lines) - 2 != int(count):
        raise DataError(
            f"{path}: line 1 says {int(count)} images, but {len(lines) - 2} lines of labels follow."
        )
    names, labels = [], []
    for number, line in enumerate(lines[2:], start=3):
        name, *values = line.split() or [""]
        if len(values) != len(attributes):
            raise DataError(
                f"{path}, line {number}: must be an image and {len(attributes)} labels; found "
                f"{len(values)} labels."
            )
        try:
            labels.append(bytes([_LABELS[value] for value in values]))
        except KeyError as error:
            attribute = attributes[values.index(error.args[0])]
            raise DataError(
                f"{path}, line {number}: labels must be 1 or -1; found {error.args[0]!r} for "
                f"{attribute}."
            ) from None
        names.append(name)
    _check_once(path, names, first_line=3)
    flat = torch.frombuffer(bytearray(b"".join(labels)), dtype=torch.uint8)
    return names, attributes, flat.view(len(names), len(attributes))


def _partition(path: Path, names: Sequence[str], source: Path) -> dict[Split, Tensor]:
    """Reads a line per image: its name, and 0 for train, 1 for validation or 2 for test."""
    row = {name: index for index, name in enumerate(names)}
    found: list[str] = []
    rows: dict[Split, list[int]] = {split: [] for split in _SPLITS.values()}
    for number, line in enumerate(_lines(path), start=1):
        parts = line.split()
        if len(parts) != 2 or parts[1] not in _SPLITS:
            raise DataError(
                f"{path}, line {number}: must be an image and 0, 1 or 2; found {line!r}."
            )
        name, split = parts
        if name not in row:
            raise DataError(f"{path}, line {number}: {source} does not list {name!r}.")
        found.append(name)
        rows[_SPLITS[split]].append(row[name])
    _check_once(path, found, first_line=1)
    if left_out := row.keys() - set(found):
        raise DataError(
            f"{path} leaves out {len(left_out)} of the {len(names)} images of {source}: "
            f"{', '.join(sorted(left_out)[:3])}{' ..' if len(left_out) > 3 else ''}"
        )
    for number, split in enumerate(_SPLITS.values()):
        if not rows[split]:
            raise DataError(f"{path} has no images for {split} ({number}).")
    return {split: torch.tensor(chosen) for split, chosen in rows.items()}


def _check_once(path: Path, names: Sequence[str], first_line: int) -> None:
    seen: set[str] = set()
    for number, name in enumerate(names, start=first_line):
        if name in seen:
            raise DataError(f"{path}, line {number}: {name} is listed for the second time.")
        seen.add(name)
