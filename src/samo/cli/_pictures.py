"""``samo show``: what a trained model predicts, beside what is true."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..benchmarks import DensePrediction
from ..training import RunError, Trained, trained
from ._arguments import told

if TYPE_CHECKING:
    from ..report import DensePictures


class Part(StrEnum):
    """The parts of a benchmark's data."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


def show_(
    run: Annotated[Path, typer.Argument(help="The directory of a run of `samo train`.")],
    out: Annotated[Path, typer.Option(help="The figure: .png, .svg or .jpg.")],
    images: Annotated[int, typer.Option(min=1, help="How many images.")] = 4,
    split: Annotated[Part, typer.Option(help="Of which part of the data.")] = Part.TEST,
) -> None:
    """Draw the predictions of a run beside what is true (scenes, nyuv2, cityscapes).

    The run may be going on: the weights are those of its best epoch so far.
    """  # noqa: DOC501 - this is the help
    # Matplotlib is for this only.
    from ..report import predictions
    from ..report import save

    console, errors = Console(), Console(stderr=True)
    with told(errors):
        if out.suffix not in (".png", ".svg", ".jpg"):
            raise RunError(f"--out must be a .png, an .svg or a .jpg; found {str(out)!r}.")
        model = trained(run)
        pictures = _pictures(model, images, split)
        out.parent.mkdir(parents=True, exist_ok=True)
        save(predictions(pictures, _title(model, split)), out)
        console.print(f"written to {out}", highlight=False, soft_wrap=True)


def _pictures(run: Trained, images: int, split: Part) -> DensePictures:
    """Predicts the first images of a split."""
    import torch

    from ..report import DensePictures

    benchmark = run.benchmark
    if not isinstance(benchmark, DensePrediction):
        raise RunError(
            f"this is a run of {run.config.benchmark!r}: there are pictures of scenes, nyuv2 and "
            f"cityscapes only."
        )
    batch = next(iter(benchmark.batches(split.value, run.tasks, images)))
    with torch.no_grad():
        outputs = benchmark.outputs(run.model, batch, run.tasks)
    return DensePictures(
        batch["image"].movedim(1, -1).numpy(),
        {task: benchmark.picture(task, target) for task, (_, target) in outputs.items()},
        {task: benchmark.picture(task, found) for task, (found, _) in outputs.items()},
        benchmark.class_names,
        benchmark.depth_unit,
    )


def _title(run: Trained, split: Part) -> str:
    config = run.config
    radius = "" if config.rho is None else f" (ρ = {config.rho:g})"
    return (
        f"{config.benchmark}, {split.value} images: {config.method}, {config.sharpness}{radius}, "
        f"epoch {run.epoch}"
    )
