"""``samo show``: draws the predictions of a trained model next to the ground truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..benchmarks import DensePrediction
from ..records.schema import preset_at
from ..training import RunError, Trained, trained
from ._console import reporting_errors, say
from ._run_options import Split

if TYPE_CHECKING:
    from ..report import DensePictures


def show_(
    run: Annotated[Path, typer.Argument(help="Directory of a run of `samo train`.")],
    out: Annotated[Path, typer.Option(help="Figure: .png, .svg or .jpg.")],
    images: Annotated[int, typer.Option(min=1, help="Number of images.")] = 4,
    split: Annotated[Split, typer.Option(help="Split of the data.")] = Split.TEST,
) -> None:
    """Draw the predictions of a run next to the ground truth (scenes, nyuv2, cityscapes).

    The run may still be in progress: the weights are those of its best epoch so far.
    """  # noqa: DOC501 - this is the help
    # Matplotlib is needed here only.
    from ..report import predictions, save

    with reporting_errors() as console:
        if out.suffix not in (".png", ".svg", ".jpg"):
            raise RunError(f"--out must be a .png, an .svg or a .jpg; found {str(out)!r}.")
        model = trained(run)
        pictures = _pictures(model, images, split)
        out.parent.mkdir(parents=True, exist_ok=True)
        save(predictions(pictures, _title(model, split)), out)
        say(console, f"written to {out}")


def _pictures(run: Trained, images: int, split: Split) -> DensePictures:
    """Predicts the first images of a split."""
    import torch

    from ..report import DensePictures

    benchmark = run.benchmark
    if not isinstance(benchmark, DensePrediction):
        raise RunError(
            f"this is a run of {run.config.benchmark!r}: only scenes, nyuv2 and cityscapes have "
            f"pictures."
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


def _title(run: Trained, split: Split) -> str:
    config = run.config
    preset = preset_at(config.sharpness, config.level)
    radius = "" if config.rho is None else f" (ρ = {config.rho:g})"
    return (
        f"{config.benchmark}, {split.value} images: {config.method}, {preset}{radius}, "
        f"epoch {run.epoch}"
    )
