"""The layout of the package: who imports whom, and how large files and constructors are."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from types import FrameType

import torch
from torch import Tensor, nn

import samo

ROOT = Path(samo.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Entry points that are called with keyword arguments: the engine's, and the benchmarks' options.
MANY_ARGUMENTS = {"Engine"}


def name_of(path: Path) -> str:
    """The dotted name of a module."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


def package_of(module: str) -> str:
    """The package that a module is in; a package is in itself."""
    is_package = MODULES[module].name == "__init__.py"
    return module if is_package else module.rpartition(".")[0]


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports_of(module: str) -> list[tuple[str, str | None]]:
    """What a module imports from the package: a module, and the name from it, if any."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            found += [(a.name, None) for a in node.names if a.name.split(".")[0] == "samo"]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package_of(module).split(".")
                base = ".".join([*parts[: len(parts) - node.level + 1], *filter(None, [base])])
            if base.split(".")[0] != "samo":
                continue
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.append((inner, None) if inner in MODULES else (base, alias.name))
    return found


def top(module: str) -> str:
    """The folder (or the file) directly below the package that a module is in."""
    return ".".join(module.split(".")[:2])


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A circle of a graph; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except ValueError as error:
        return list(error.args[1])
    return []


def test_no_circle_of_modules() -> None:
    graph = {m: {base for base, _ in imports_of(m) if base in MODULES} - {m} for m in MODULES}
    # The lazy names of `samo` itself are not imports of the modules that it names.
    graph["samo"] = set()
    assert circle(graph) == []


def test_no_circle_of_packages() -> None:
    graph: dict[str, set[str]] = {}
    for module in MODULES:
        if module != "samo":
            uses = {top(base) for base, _ in imports_of(module)} - {"samo", top(module)}
            graph.setdefault(top(module), set()).update(uses)
    assert circle(graph) == []


def test_private_modules_and_names_stay_inside() -> None:
    """Of another package, only what its ``__init__`` exports is imported."""
    strangers = []
    for module in MODULES:
        for base, name in imports_of(module):
            *packages, last = base.split(".")
            outside = not f"{module}.".startswith(".".join(packages) + ".")
            private_module = last.startswith("_") and outside
            private_name = name is not None and name.startswith("_") and not name.startswith("__")
            if private_module or private_name:
                strangers.append((module, base, name))
    assert strangers == []


def constructors() -> Iterator[tuple[str, int]]:
    """The classes, each with the number of arguments that its constructor takes."""
    for module in MODULES:
        for node in ast.walk(tree_of(module)):
            if not isinstance(node, ast.ClassDef):
                continue
            for method in node.body:
                if isinstance(method, ast.FunctionDef) and method.name == "__init__":
                    arguments = method.args
                    count = len([*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs])
                    yield f"{module}.{node.name}", count - 1


def test_constructors_are_small() -> None:
    large = {
        name: count
        for name, count in constructors()
        if count > 8 and name.rpartition(".")[2] not in MANY_ARGUMENTS
    }
    assert {n: c for n, c in large.items() if not n.startswith("samo.benchmarks.")} == {}


def test_files_are_small() -> None:
    lines = {name: path.read_bytes().count(b"\n") for name, path in MODULES.items()}
    assert len([name for name, count in lines.items() if count > 350]) <= 3


def test_few_private_files_at_the_top() -> None:
    assert len(list(ROOT.glob("_[!_]*.py"))) <= 8


def test_a_step_touches_few_classes_and_files() -> None:
    """A warm step of SAMO with MGDA, counted by a profile hook."""
    model = nn.ModuleDict({name: nn.Linear(3, 3) for name in ("trunk", "a", "b")})
    engine = samo.SAMO(model, ["a", "b"], aggregator="mgda", rho=0.05)

    def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
        h = model["trunk"](torch.ones(4, 3)).tanh()
        return {task: (model[task](h) - float(task == "a")).square().mean() for task in tasks}

    for _ in range(2):
        engine.backward(losses)
    classes: set[type] = set()
    files: set[str] = set()

    def hook(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(ROOT)):
            files.add(frame.f_code.co_filename)
            if "self" in frame.f_locals:
                classes.add(type(frame.f_locals["self"]))

    sys.setprofile(hook)
    try:
        engine.backward(losses)
    finally:
        sys.setprofile(None)
    assert len(files) <= 32, sorted(files)
    assert len(classes) <= 32, sorted(kind.__name__ for kind in classes)
