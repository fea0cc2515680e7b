"""Runs every command of the how-to pages in fresh environments with the extras that they name.

    python tests/run_pages.py [PAGE ..]

Pages that name the same extras share an environment: a new one in a temporary directory, without
the system's packages, with the wheel built from this checkout and the versions in
``constraints.txt``. The commands run in a directory with a copy of ``examples/``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
PATIENCE = 1800.0
UNSET = {"PYTHONPATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE"}


def main(names: Sequence[str]) -> int:
    """Runs the pages with the given names, or all, and prints the result of each command.

    Returns:
        The number of blocks of commands that failed.
    """
    found = sorted((ROOT / "docs" / "how-to").glob("*.md"))
    if unknown := set(names) - {page.stem for page in found}:
        raise SystemExit(f"No such page: {sorted(unknown)}. Pages: {[p.stem for p in found]}.")
    together: dict[str, list[Path]] = defaultdict(list)
    for page in found:
        if commands(page) and (not names or page.stem in names):
            together[extras(page)].append(page)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        wheel = _wheel(Path(folder) / "wheel")
        for chosen, pages in together.items():
            place = Path(folder) / "environment"
            start = time.monotonic()
            environment = _environment(place / "venv", f"{wheel}{chosen}")
            print(f"torch-samo{chosen}: installed in {time.monotonic() - start:.0f} s", flush=True)
            shutil.copytree(ROOT / "examples", place / "examples")
            for page in pages:
                failures += _run(page, place, environment)
            shutil.rmtree(place)
    return failures


def extras(page: Path) -> str:
    """Returns the extras that a page names, in brackets; empty if it needs none."""
    line = next(line for line in page.read_text().splitlines() if line.startswith("Extras: "))
    named = re.match(r"Extras: `torch-samo(\[[a-z,]+\])`", line)
    return named[1] if named else ""


def commands(page: Path) -> list[str]:
    """Returns the blocks of console commands of a page."""
    return re.findall(r"^```console\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def _wheel(folder: Path) -> Path:
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([sys.executable, "-m", "pip", *build, str(ROOT)], check=True)
    (wheel,) = folder.iterdir()
    return wheel


def _environment(folder: Path, requirement: str) -> dict[str, str]:
    """Creates an environment with a package; returns the variables to run commands in it."""
    venv.create(folder, with_pip=True)
    # Most installed modules are never imported, and compiling all of them takes long.
    install = ["install", "--quiet", "--no-compile", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([folder / "bin" / "python", "-m", "pip", *install, requirement], check=True)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    kept = {name: value for name, value in os.environ.items() if name not in UNSET}
    return {**kept, "PATH": path, "VIRTUAL_ENV": str(folder)}


def _run(page: Path, place: Path, environment: dict[str, str]) -> int:
    """Runs the commands of a page and returns the number of blocks that failed."""
    failures = 0
    for block in commands(page):
        start = time.monotonic()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=place,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        failures += done.returncode != 0
        verdict = f"exit status {done.returncode}, {time.monotonic() - start:.0f} s"
        print(f"{page.stem}: {verdict}\n{_indented(block)}", flush=True)
        output = done.stdout.splitlines()
        print(_indented("\n".join(output if done.returncode else output[-3:])), flush=True)
    return failures


def _indented(text: str) -> str:
    return "".join(f"    {line}\n" for line in text.splitlines())


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]) > 0)
