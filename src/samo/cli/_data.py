"""``samo data``: data that is made here."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..training import RunError
from ._arguments import told
from ._show import CountView

data = typer.Typer(help="Make data in the layouts that the benchmarks read.", no_args_is_help=True)


class Layout(StrEnum):
    """The layouts that scenes can be written in."""

    NYUV2 = "nyuv2"
    CITYSCAPES = "cityscapes"


@data.callback()
def _data() -> None:
    pass


@data.command("scenes")
def scenes_(
    out: Annotated[Path, typer.Option(help="The directory: empty, or not there yet.")],
    layout: Annotated[
        Layout, typer.Option(help="nyuv2: rooms, with normals; cityscapes: streets.")
    ] = Layout.NYUV2,
    train: Annotated[int, typer.Option(help="How many images for training.")] = 795,
    val: Annotated[int, typer.Option(help="How many images for testing (`val`).")] = 654,
    seed: Annotated[int, typer.Option(help="The seed.")] = 0,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Multiples of 32. Default: 288x384 or 128x256."),
    ] = None,
) -> None:
    """Render scenes and write them in the layout that `nyuv2` and `cityscapes` read.

    Class, depth and normal are exact in every pixel. After an interrupt the same command goes on.
    """
    from ..benchmarks.scenes import LAYOUTS, SceneSet, write_scenes

    console, errors = Console(), Console(stderr=True)
    with told(errors):
        height, width = LAYOUTS[layout.value].size if size is None else _size(size)
        scenes = SceneSet(layout.value, train, val, seed, height, width)
        with CountView(console, "images", train + val) as view:
            write_scenes(scenes, out, watch=view.watch)
        console.print(
            f"written to {out}: samo train {layout.value} --data {out} ...",
            highlight=False,
            soft_wrap=True,
        )


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[xX×](\d+)", text.strip())
    if match is None:
        raise RunError(f"--size must be HxW, for instance 96x128; found {text!r}.")
    return int(match[1]), int(match[2])
