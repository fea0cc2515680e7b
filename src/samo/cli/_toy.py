"""``samo toy``: descents in the plane, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from .. import NonFiniteError, toy
from ..training import PRESETS, RunError
from ._arguments import told
from ._options import names
from ._show import View


class ToyView(View):
    """Shows descents: a bar over the steps of all, and a line for each that has ended.

    Args:
        console: Where to.
        steps: The number of steps of all descents.
    """

    def __init__(self, console: Console, steps: int) -> None:
        super().__init__(console)
        self._bar = self._bars.add_task("steps", total=steps, note="")
        self._before = 0

    def watch(self, step: int) -> None:
        """Takes notice of a step.

        Args:
            step: How many the present descent has made.
        """
        self._bars.update(self._bar, completed=self._before + step)

    def ended(self, name: str, steps: int) -> None:
        """Takes notice of a descent's end.

        Args:
            name: What it is called.
            steps: How many steps it has made.
        """
        self._before += steps
        self._bars.update(self._bar, completed=self._before, note=name)
        self._line(f"{name}: done")


def toy_(
    out: Annotated[Path, typer.Option(help="Where tables, figures and trajectories are written.")],
    problem: Annotated[
        str,
        typer.Argument(
            help="; ".join(f"{name}: {known.title}" for name, known in toy.PROBLEMS.items()) + "."
        ),
    ] = "valley",
    methods: Annotated[
        str | None,
        typer.Option(help="Aggregation methods, with commas; the problem's if left out."),
    ] = None,
    sharpness: Annotated[
        str | None,
        typer.Option(
            help=f"Presets, with commas: {', '.join(PRESETS)}; the problem's if left out."
        ),
    ] = None,
    rho: Annotated[float | None, typer.Option(help="The radius of the perturbation.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of each descent.")] = None,
    lr: Annotated[float | None, typer.Option(help="Adam's learning rate.")] = None,
    seed: Annotated[int, typer.Option(help="The seed.")] = 0,
) -> None:
    """Watch methods and sharpness presets descend two losses of a point in the plane.

    valley is Figure 1 of the SAMO paper, front the problem of CAGrad and Nash-MTL. Finished
    descents are kept; after an interrupt the same command goes on.
    """
    console, errors = Console(), Console(stderr=True)
    with told(errors):
        settings = _settings(problem, methods, sharpness, rho=rho, steps=steps, lr=lr, seed=seed)
        found = _descents(console, settings, out)
        # Matplotlib is for the end only.
        from ..report import toy_table, write_toy

        figures = write_toy(found, out)
        console.print(toy_table(found))
        console.print("Figures:", *figures, sep="\n  ", highlight=False, soft_wrap=True)
        data = f"{out / 'table.csv'}, {out / 'trajectories'}"
        console.print(f"Data: {data}", highlight=False, soft_wrap=True)


def _settings(
    problem: str,
    methods: str | None,
    sharpness: str | None,
    *,
    rho: float | None,
    steps: int | None,
    lr: float | None,
    seed: int,
) -> list[toy.Setting]:
    """All descents: each method with each preset, from each start."""
    known = toy.setting(problem).problem
    chosen = known.methods if methods is None else names(methods)
    presets = known.presets if sharpness is None else names(sharpness)
    if not chosen or not presets:
        raise RunError("name at least one method and one sharpness preset.")
    perturbed = [name for name in presets if name not in PRESETS or PRESETS[name].perturb]
    if rho is not None and not perturbed:
        raise RunError(f"rho = {rho} has no meaning for sharpness {', '.join(presets)}.")
    made = [
        toy.setting(
            known,
            method=method,
            sharpness=preset,
            rho=rho if preset in perturbed else None,
            start=start,
            steps=steps,
            lr=lr,
            seed=seed,
        )
        for method in chosen
        for preset in presets
        for start in known.starts
    ]
    return list(dict.fromkeys(made))


def _descents(console: Console, settings: Sequence[toy.Setting], out: Path) -> list[toy.Trajectory]:
    """Runs what is not on disk yet."""
    files = [out / "trajectories" / f"{_name(setting)}.npz" for setting in settings]
    found = {
        file: toy.load(file, setting)
        for file, setting in zip(files, settings, strict=True)
        if file.exists()
    }
    missing = [(f, s) for f, s in zip(files, settings, strict=True) if f not in found]
    with ToyView(console, sum(setting.steps for _, setting in missing)) as view:
        for file, setting in missing:
            try:
                found[file] = toy.run(setting, watch=view.watch)
            except (ValueError, NonFiniteError) as error:  # as some methods need other losses
                raise RunError(f"{_name(setting)}: {error}") from error
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                toy.save(found[file], file)
            except OSError as error:
                raise RunError(f"{out} cannot be written to: {error}") from error
            view.ended(_name(setting), setting.steps)
    return [found[file] for file in files]


def _name(setting: toy.Setting) -> str:
    start = setting.problem.starts.index(setting.start) + 1
    return f"{setting.method}-{setting.sharpness}-{start}"
