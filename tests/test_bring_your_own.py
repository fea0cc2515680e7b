"""One's own problem: a class in a file, or a table, from the command line."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from samo import benchmarks
from samo.cli import main
from tests.benchmarks.tables import houses, write_csv

EXAMPLE = Path(__file__).parent.parent / "examples" / "bring_your_own.py"
SCRIPT = Path(sys.executable).with_name("samo")


def test_the_example_beside_the_user(tmp_path: Path) -> None:
    """By the installed script, which does not by itself look for modules where it is called."""
    shutil.copy(EXAMPLE, tmp_path)
    package = Path(benchmarks.__file__).parent.parent.parent
    command = [str(SCRIPT), "train", "bring_your_own:Waves", "--epochs", "3", "--out", "run"]
    options = ["--method", "fairgrad", "--sharpness", "samo", "--benchmark-option", "noise=0.3"]
    done = subprocess.run(
        [*command, *options],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(package)},
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["config"]["benchmark_options"] == {"noise": 0.3}
    test = results["selected"]["test"]
    assert test["shape"]["accuracy"] > 60  # a constant: 33
    assert test["periods"]["error"] < 0.4  # a constant: 0.5


def test_a_table_beside_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "houses.csv", houses())
    logger = logging.getLogger("samo")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    command = ["samo", "train", "tabular", "--epochs", "1", "--out", "run"]
    for option in ("data=houses.csv", "tasks=price,garden", 'types={"price": "regression"}'):
        command += ["--benchmark-option", option]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    output = capsys.readouterr()
    assert ended.value.code == 0, output.err
    # What was found is said once, and not among the results.
    assert output.err.count("task garden: binary, 52 labels of 60, no (") == 1
    assert "R² (%)" in output.out
    assert "task garden" not in output.out


@pytest.mark.parametrize(
    ("source", "address", "message"),
    [
        ("", "mine.py:Mine", "must be named by its module: 'mine:Mine' in the directory of"),
        ("", "mine", "unknown benchmark 'mine'"),
        ("", "mine:Mine", "module 'mine' has no attribute 'Mine'"),
        ("", "other:Mine", "No module named 'other'. Modules are imported from the current dir"),
        ("import nowhere", "mine:Mine", "No module named 'nowhere'"),
        ("class Mine: pass", "mine:Mine", "must be a class derived from Benchmark"),
        (
            "class Mine(Benchmark):\n def model(self): pass\n def loss(self): pass",
            "mine:Mine",
            "benchmark 'mine:Mine' lacks methods of Benchmark: batches, outputs",
        ),
        ("{whole}", "mine:Mine", "has no tasks: set the attribute `tasks`"),
        ("{whole}\n tasks = 'a', 'b'", "mine:Mine", "has no metric for task 'a' in `metrics`"),
        ("{whole}\n tasks = 'a', 'b'\n metrics = {{'a': 1}}", "mine:Mine", "for task 'b'"),
    ],
)
def test_what_is_missing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, address: str, message: str
) -> None:
    methods = "".join(
        f"\n def {name}(self): pass" for name in ("model", "batches", "outputs", "loss")
    )
    body = source.format(whole=f"class Mine(Benchmark):{methods}")
    (tmp_path / "mine.py").write_text(f"from samo.benchmarks import Benchmark\n{body}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the message is compared below
        benchmarks.create(address)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert message in str(caught.value)
