"""The program that writes the tables of the page about cost, with tiny models."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = Path("docs/cost.md")
NAMES = ("machine", "main", "growth", "small")


def parts(page: str) -> tuple[list[str], dict[str, str]]:
    """Splits a page into its prose and what the program writes."""
    prose, found = [], {}
    for name in sorted(NAMES, key=page.index):
        before, found[name], page = page.split(f"<!-- {name} -->")
        prose.append(before)
    return [*prose, page], found


@pytest.mark.slow
def test_the_program_writes_every_table(tmp_path: Path) -> None:
    for folder in ("docs/images", "benchmarks/results/cost"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / PAGE, tmp_path / PAGE)
    command = [sys.executable, str(ROOT / "benchmarks" / "cost.py"), "--small", "--rounds", "1"]
    command += ["--out", str(tmp_path / "measured"), "--root", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    prose, found = parts((tmp_path / PAGE).read_text(encoding="utf-8"))
    assert prose == parts((ROOT / PAGE).read_text(encoding="utf-8"))[0]
    for name in ("main", "growth", "small"):
        header, _, *rows = found[name].strip().splitlines()
        assert len(rows) >= 5
        columns = zip(*(row.strip("|").split("|") for row in rows), strict=True)
        assert all(any(cell.strip() for cell in column) for column in columns), header
    assert "core" in found["machine"]
    assert (tmp_path / "docs/images/growth.png").stat().st_size > 10_000
    table = (tmp_path / "benchmarks/results/cost/targets.md").read_text(encoding="utf-8")
    assert all(line.endswith(("| yes |", "| no |")) for line in table.splitlines()[2:])
