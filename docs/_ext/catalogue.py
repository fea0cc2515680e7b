"""Generates the pages that list methods, set-ups and commands, before each build."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import typer

from samo import aggregation, benchmarks
from samo._citation import source
from samo.cli._app import app as commands
from samo.cli._list import assigned, level, state
from samo.training import PRESETS

_NEEDS = {
    "nothing": (
        "Fixed or random weights",
        "Cheap: one backward pass for all tasks with `ERM` and `GSAM`.",
    ),
    "losses": (
        "Weights from the losses",
        "Cheap: one backward pass for all tasks with `ERM` and `GSAM`.",
    ),
    "sharpness": (
        "Weights from the rise of the losses",
        "Cheap: one backward pass for all tasks at both points of `GSAM(.., rho_own=0)`.",
    ),
    "gramian": (
        "Weights from inner products of the task gradients",
        "K backward passes, or one at the representation. The method receives the K × K Gramian, "
        "in float64.",
    ),
    "gradients": (
        "From the task gradients themselves",
        "K backward passes, or one at the representation. Not available for sharded models "
        "(`fully_shard`).",
    ),
}

# Methods that solve an optimisation problem in each step, to rounding.
_EXACT = ("mgda", "cagrad", "conicgrad", "upgrad", "dualproj", "pcd", "nash-mtl", "fairgrad")


def methods() -> str:
    """Lists the methods by what they need.

    Returns:
        Markdown.
    """
    found = {name: aggregation.describe(name) for name in aggregation.available()}
    if unknown := set(_EXACT) - set(found):
        raise ValueError(f"_EXACT names unknown methods: {sorted(unknown)}.")
    parts = []
    for need, (title, about) in _NEEDS.items():
        rows = [_method(name, method) for name, method in found.items() if method.needs == need]
        parts.append(f"## {title}\n\n{about}\n")
        parts.append(_table(("name", "description", "defaults", "state", "level", "source"), rows))
    return "\n".join(parts)


def _method(name: str, method: aggregation.Method) -> tuple[str, ...]:
    about = method.title + (" (uses the losses too)" if method.sees_losses else "")
    about += "; *exact solver*" if name in _EXACT else ""
    about += f". {method.note}" if method.note else ""
    options = ", ".join(f"`{option}`" for option in assigned(method.defaults))
    cited = "; ".join(map(_cited, method.references))
    return f"`{name}`", about, options or "–", state(method), level(method.levels), cited or "–"


def problems() -> str:
    """Lists the benchmarks with their default set-ups.

    Returns:
        Markdown.
    """
    rows = []
    for name in benchmarks.available():
        kind, d = benchmarks.get(name), benchmarks.get(name).defaults
        line = (inspect.getdoc(kind) or "").splitlines()[0]
        grid = ", ".join(f"{rho:g}" for rho in d.rho_grid)
        optimizer = f"{d.optimizer}, {d.lr:g}, {d.schedule}"
        average = f", mean of the last {d.average_last}" if d.average_last else ""
        rows.append((f"`{name}`", line, f"{d.epochs}{average}", str(d.batch_size), optimizer, grid))
    head = ("name", "description", "epochs", "batch", "optimizer, learning rate, schedule", "ρ")
    presets = [(f"`{n}`", preset.title, level(preset.levels)) for n, preset in PRESETS.items()]
    return (
        "# Set-ups\n\nThe defaults of each benchmark, generated from the registry.\n\n"
        f"{_table(head, rows)}\n# Presets on the command line\n\n"
        f"{_table(('`--sharpness`', 'description', '`--level`'), presets)}"
    )


def _cited(key: str) -> str:
    who, _, where = source(key).partition(", ")
    where = where.replace("arXiv:", "arxiv.org/abs/")
    return f"[{who}](https://{where})" if where else who


def command_line() -> str:
    """Lists all commands and their options.

    Returns:
        Markdown.
    """
    return "\n".join(_command("samo", typer.main.get_command(commands), 1))


def _command(name: str, command: Any, level: int) -> Iterator[str]:
    usage = " ".join([name, *(p.name.upper() for p in _arguments(command))])
    title = f"`{name}`" if level > 1 else f"The command line: `{name}`"
    yield f"{'#' * level} {title}\n\n{inspect.cleandoc(command.help or '')}\n"
    below = getattr(command, "commands", {})
    if not below:
        yield f"```text\n{usage} [OPTIONS]\n```\n"
        rows = [
            (", ".join(f"`{o}`" for o in [*p.opts, *p.secondary_opts]), _default(p), p.help or "")
            for p in command.params
            if p.param_type_name == "option"
        ]
        if rows:
            yield _table(("option", "default", "description"), rows)
    for key, one in below.items():
        yield from _command(f"{name} {key}", one, level + 1)


def _arguments(command: Any) -> list[Any]:
    return [p for p in command.params if p.param_type_name == "argument"]


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    return "–" if value is False or value in (None, [], ()) else f"`{value}`"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    text = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines]
    return "".join(f"| {line} |\n" for line in text)


def _write(app: Any) -> None:
    folder = Path(app.srcdir) / "_generated"
    folder.mkdir(exist_ok=True)
    for name, make in (
        ("methods", methods),
        ("problems", problems),
        ("command-line", command_line),
    ):
        page, text = folder / f"{name}.md", make()
        # Sphinx reads a page again only if its file has changed.
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Registers the extension.

    Args:
        app: The Sphinx application.

    Returns:
        The metadata of the extension.
    """
    app.connect("builder-inited", _write)
    return {"parallel_read_safe": True}
