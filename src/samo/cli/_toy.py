"""``samo toy``: runs and draws descents in the plane."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from .. import NonFiniteError, aggregation, toy
from .._names import unknown
from ..training import PRESETS, RunError, complete_preset
from ._console import reporting_errors, say
from ._parse import assignments, names
from ._run_options import OptionPairs
from ._views import View


def toy_(
    out: Annotated[Path, typer.Option(help="Directory of tables, figures and trajectories.")],
    problem: Annotated[
        str,
        typer.Argument(
            help="; ".join(f"{name}: {known.title}" for name, known in toy.PROBLEMS.items()) + "."
        ),
    ] = "valley",
    methods: Annotated[
        str | None,
        typer.Option(help="Aggregation methods, separated by commas. Default: the problem's."),
    ] = None,
    sharpness: Annotated[
        str | None,
        typer.Option(
            help=f"Presets, separated by commas: {', '.join(PRESETS)}. Default: those of the "
            "problem."
        ),
    ] = None,
    rho: Annotated[float | None, typer.Option(help="Radius of the perturbation.")] = None,
    steps: Annotated[int | None, typer.Option(help="Number of steps per descent.")] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate of Adam.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    method_option: OptionPairs = [],  # noqa: B006 - typer copies it
    sharpness_option: OptionPairs = [],  # noqa: B006
) -> None:
    """Minimise two losses of a point in the plane with methods and sharpness presets.

    valley is Figure 1 of the SAMO paper, front the problem of CAGrad and Nash-MTL. An option is
    passed to the methods or presets that have it. Finished descents are kept; repeat an interrupted
    command to resume.
    """
    with reporting_errors() as console:
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
        # Matplotlib is loaded at the end only.
        from ..report import toy_table, write_toy

        figures = write_toy(found, out)
        console.print(toy_table(found))
        say(console, "Figures:", *figures)
        say(console, f"Data: {out / 'table.csv'}, {out / 'trajectories'}")


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
    """Creates all descents: each method with each preset, from each start."""
    if not methods or not presets:
        raise RunError("give at least one method and one sharpness preset.")
    try:
        method_has = {(found := aggregation.describe(name)).name: found.options for name in methods}
        preset_has = {name: complete_preset(name, {}).keys() for name in presets}
    except ValueError as error:
        raise RunError(str(error)) from error
    perturbed = [name for name in presets if PRESETS[name].perturb]
    if rho is not None and not perturbed:
        raise RunError(f"rho = {rho} has no meaning for sharpness {', '.join(presets)}.")
    of_method = _distributed("--method-option", method_options, method_has)
    of_preset = _distributed("--sharpness-option", preset_options, preset_has)
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


def _distributed(
    option: str, given: Mapping[str, Any], takers: Mapping[str, Collection[str]]
) -> dict[str, dict[str, Any]]:
    """Passes each option to the takers that have it, of which there must be at least one."""
    for name in given:
        if not any(name in has for has in takers.values()):
            known = dict.fromkeys(name for has in takers.values() for name in has)
            raise RunError(unknown(f"name in {option},", name, known))
    return {
        taker: {name: value for name, value in given.items() if name in has}
        for taker, has in takers.items()
    }


def _descents(console: Console, settings: Sequence[toy.Setting], out: Path) -> list[toy.Trajectory]:
    """Loads the finished descents, and runs the others."""
    files = {out / "trajectories" / f"{_name(setting)}.npz": setting for setting in settings}
    found = {file: toy.load(file, setting) for file, setting in files.items() if file.exists()}
    missing = {file: setting for file, setting in files.items() if file not in found}
    done = 0
    with View(console, "steps", sum(setting.steps for setting in missing.values())) as view:
        for file, setting in missing.items():

            def watch(step: int, before: int = done) -> None:
                view.show(completed=before + step)

            try:
                found[file] = toy.run(setting, watch=watch)
            except (ValueError, NonFiniteError) as error:  # some methods need other losses
                raise RunError(f"{_name(setting)}: {error}") from error
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                toy.save(found[file], file)
            except OSError as error:
                raise RunError(f"{out} cannot be written to: {error}") from error
            done += setting.steps
            view.show(f"{_name(setting)}: done", completed=done, note=_name(setting))
    return [found[file] for file in files]


def _name(setting: toy.Setting) -> str:
    start = setting.problem.starts.index(setting.start) + 1
    return f"{setting.method}-{setting.sharpness}-{start}"
