"""``samo toy``: descents in the plane, drawn."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .. import NonFiniteError, aggregation, toy
from ..benchmarks._names import unknown
from ..training import PRESETS, RunError, complete_preset
from ._arguments import told
from ._options import assignments, names
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
    method_option: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="For those methods that have it.")
    ] = [],  # noqa: B006 - typer copies it
    sharpness_option: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="For those presets that have it.")
    ] = [],  # noqa: B006
) -> None:
    """Watch methods and sharpness presets descend two losses of a point in the plane.

    valley is Figure 1 of the SAMO paper, front the problem of CAGrad and Nash-MTL. Finished
    descents are kept; after an interrupt the same command goes on.
    """
    console, errors = Console(), Console(stderr=True)
    with told(errors):
        known = toy.setting(problem).problem
        settings = _settings(
            known,
            known.methods if methods is None else names(methods),
            known.presets if sharpness is None else names(sharpness),
            assignments("--method-option", method_option),
            assignments("--sharpness-option", sharpness_option),
            rho=rho,
            steps=steps,
            lr=lr,
            seed=seed,
        )
        found = _descents(console, settings, out)
        # Matplotlib is for the end only.
        from ..report import toy_table, write_toy

        figures = write_toy(found, out)
        console.print(toy_table(found))
        console.print("Figures:", *figures, sep="\n  ", highlight=False, soft_wrap=True)
        data = f"{out / 'table.csv'}, {out / 'trajectories'}"
        console.print(f"Data: {data}", highlight=False, soft_wrap=True)


def _settings(
    problem: toy.Problem,
    methods: Sequence[str],
    presets: Sequence[str],
    method_options: Mapping[str, Any],
    preset_options: Mapping[str, Any],
    *,
    rho: float | None,
    **common: Any,
) -> list[toy.Setting]:
    """All descents: each method with each preset, from each start."""
    if not methods or not presets:
        raise RunError("name at least one method and one sharpness preset.")
    try:
        method_has = {(found := aggregation.describe(name)).name: found.options for name in methods}
        preset_has = {name: complete_preset(name, {}).keys() for name in presets}
    except ValueError as error:
        raise RunError(str(error)) from error
    perturbed = [name for name in presets if PRESETS[name].perturb]
    if rho is not None and not perturbed:
        raise RunError(f"rho = {rho} has no meaning for sharpness {', '.join(presets)}.")
    of_method = _dealt("--method-option", method_options, method_has)
    of_preset = _dealt("--sharpness-option", preset_options, preset_has)
    return [
        toy.setting(
            problem,
            method=method,
            sharpness=preset,
            rho=rho if preset in perturbed else None,
            start=start,
            method_options=of_method[method],
            sharpness_options=of_preset[preset],
            **common,
        )
        for method in method_has
        for preset in preset_has
        for start in problem.starts
    ]


def _dealt(
    option: str, given: Mapping[str, Any], takers: Mapping[str, Collection[str]]
) -> dict[str, dict[str, Any]]:
    """The options of each of several, who have different ones; each option must be somebody's."""
    for name in given:
        if not any(name in has for has in takers.values()):
            known = dict.fromkeys(name for has in takers.values() for name in has)
            raise RunError(unknown(f"name in {option},", name, known))
    return {
        taker: {name: value for name, value in given.items() if name in has}
        for taker, has in takers.items()
    }


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
