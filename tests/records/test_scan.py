"""Runs in a directory that other people may have written, and the state of each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from samo.records.scan import scan
from tests.report import pages
from tests.report.pages import config


def test_deep_large_and_torn_files(tmp_path: Path) -> None:
    pages.finished(tmp_path / "good", config())
    pages.unfinished(tmp_path / "deep", config(seed=1))
    pages.write(tmp_path / "deep" / "results.json", "[" * 100_000)
    pages.unfinished(tmp_path / "large", config(seed=2))
    with (tmp_path / "large" / "results.json").open("wb") as file:
        file.truncate(2**40)  # takes no room
    pages.unfinished(tmp_path / "torn", config(seed=3))
    log = tmp_path / "torn" / "log.jsonl"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([lines[0], '{"epoch": NaN}', "\x00\x1b", lines[1]]))
    found = scan(tmp_path)
    states = {run.path: (run.state, len(run.log)) for run in found.runs}
    assert states == {
        "good": ("finished", 3),
        "deep": ("unreadable", 2),
        "large": ("unreadable", 2),
        "torn": ("unfinished", 2),
    }
    reasons = {problem.path: problem.reason for problem in found.problems}
    assert reasons["large/results.json"] == "it has 1048576 MB, more than 32 MB"
    assert reasons["torn/log.jsonl"].startswith("line 2: ")


def test_results_of_another_run_are_not_taken(tmp_path: Path) -> None:
    its = config("mgda")
    pages.finished(tmp_path / "x", config("ls"))
    plan = [{"path": "x", "baseline": False, "config": its}]
    pages.write(tmp_path / "compare.json", {"runs": plan})
    (run,) = scan(tmp_path).runs
    assert (run.state, run.results) == ("unreadable", None)
    assert "method is 'ls', planned 'mgda'" in run.error


@pytest.mark.parametrize("time", [1, 4e9])
def test_no_clock_tells_a_failure(time: float, tmp_path: Path) -> None:
    """A run that is resumed deletes its error; the clock may have been set back since."""
    pages.unfinished(tmp_path / "x", config())
    pages.failed(tmp_path / "x", config(), "OSError: no space left")
    os.utime(tmp_path / "x" / "error.txt", (time, time))
    assert scan(tmp_path).runs[0].state == "failed"
    (tmp_path / "x" / "error.txt").unlink()
    assert scan(tmp_path).runs[0].state == "unfinished"
