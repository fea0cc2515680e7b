"""``samo data``: generates data."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..training import RunError
from ._console import reporting_errors, say
from ._views import CountView

data = typer.Typer(
    help="Generate data in the layouts that the benchmarks read.", no_args_is_help=True
)


class Layout(StrEnum):
    """The layouts of scenes."""

    NYUV2 = "nyuv2"
    CITYSCAPES = "cityscapes"


@data.callback()
def _data() -> None:
    pass


@data.command("scenes")
def scenes_(
    out: Annotated[Path, typer.Option(help="Directory, new or empty.")],
    layout: Annotated[
        Layout, typer.Option(help="nyuv2: rooms, with normals; cityscapes: streets.")
    ] = Layout.NYUV2,
    train: Annotated[int, typer.Option(help="Number of training images.")] = 795,
    val: Annotated[int, typer.Option(help="Number of test images (`val`).")] = 654,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW", help="Multiples of 32. Default: 288x384 or 128x256."),
    ] = None,
) -> None:
    """Render scenes and write them in the layout that `nyuv2` and `cityscapes` read.

    Class, depth and normal are exact in every pixel. Repeat an interrupted command to resume.
    """
    from ..benchmarks.scenes import LAYOUTS, SceneSet, write_scenes

    with reporting_errors() as console:
        height, width = LAYOUTS[layout.value].size if size is None else _size(size)
        scenes = SceneSet(layout.value, train, val, seed, height, width)
        with CountView(console, "images", train + val) as view:
            write_scenes(scenes, out, watch=view.watch)
        say(console, f"written to {out}: samo train {layout.value} --data {out} ...")


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)[xX×](\d+)", text.strip())
    if match is None:
        raise RunError(f"--size must be HxW, for instance 96x128; found {text!r}.")
    return int(match[1]), int(match[2])
