"""The folders of Office-Home."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .._errors import DataError
from .._folders import raise_missing

DOMAINS = ("Art", "Clipart", "Product", "Real World")
LAYOUT = tuple(f"{domain}/<class>/*.jpg" for domain in DOMAINS)

_SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class Domain:
    """The images of a domain.

    Attributes:
        files: The image files.
        labels: The classes of the images, numbered in alphabetical order, shape ``[N]``.
        classes: The names of the classes.
    """

    files: list[Path]
    labels: Tensor
    classes: tuple[str, ...]


def read_domains(data: Path) -> dict[str, Domain]:
    """Returns the images of all domains by name.

    Raises:
        DataError: If a domain is missing, the domains have different classes, or a class has no
            images.
    """
    domains = {name: _domain(data, name) for name in DOMAINS}
    first = domains[DOMAINS[0]].classes
    for name, domain in domains.items():
        if domain.classes != first:
            lacking, more = set(first) - set(domain.classes), set(domain.classes) - set(first)
            faults = (
                f"{name} {verb} {', '.join(sorted(classes))}"
                for verb, classes in (("lacks", lacking), ("also has", more))
                if classes
            )
            raise DataError(
                f"{data}: all domains must have the same classes, but compared with {DOMAINS[0]} "
                f"{' and '.join(faults)}."
            )
    return domains


def _domain(data: Path, name: str) -> Domain:
    # The authors of the published experiments use "Real_World".
    places = [data / name, data / name.replace(" ", "_")]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise_missing(places[0], LAYOUT)
    classes = tuple(sorted(entry.name for entry in _visible(folder) if entry.is_dir()))
    if not classes:
        raise DataError(f"{folder} has no classes: it should have a folder of images for each.")
    files: list[Path] = []
    labels: list[int] = []
    for label, of in enumerate(classes):
        found = [f for f in _visible(folder / of) if f.suffix.lower() in _SUFFIXES]
        if not found:
            raise DataError(f"{folder / of} has no images (jpg or png).")
        files += found
        labels += [label] * len(found)
    return Domain(files, torch.tensor(labels), classes)


def _visible(folder: Path) -> Sequence[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
