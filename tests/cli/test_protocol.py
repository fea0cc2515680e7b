"""The command line's options of schedule, reported epochs and data."""

from __future__ import annotations

from pathlib import Path

import pytest

from samo.records import read_json
from samo.training import plan, train
from tests.cli.test_app import TOY, run

FILE = "tests.training.files:FromFile"


def test_train_takes_the_protocol_and_the_data_as_typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("n.txt").write_text("24")
    command = ["train", FILE, "--data", "n.txt", "--epochs", "3", "--out", "x"]
    command += ["--schedule", "step", "--schedule-option", "every=1", "--average-last", "2"]
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert "mean of epochs 2 to 3" in out
    config = read_json(Path("x/config.json"))
    assert config["benchmark_options"] == {"data": "n.txt"}
    assert (config["schedule"], config["average_last"]) == ("step", 2)
    assert config["schedule_options"] == {"every": 1, "factor": 0.5}


def test_compare_reports_the_mean_over_the_last_epochs(tmp_path: Path) -> None:
    cells = plan(
        TOY, ["ls"], ["erm"], [], 1, stl=False, epochs=3, average_last=2, schedule="cosine"
    )
    (results,) = [train(cell.config, tmp_path / cell.path) for cell in cells]
    command = ["compare", TOY, "--sharpness", "erm", "--seeds", "1", "--no-stl", "--epochs", "3"]
    command += ["--schedule", "cosine", "--average-last", "2", "--ema", "0", "--out", str(tmp_path)]
    code, _, err = run(*command)
    assert (code, err) == (0, "")
    table = (tmp_path / "table.md").read_text()
    assert "Test data, mean of the last 2 epochs; one seed." in table
    tests = [record["test"]["size"]["error"] for record in results["history"][1:]]
    digits = 2 if sum(tests) / 2 >= 1 else 4
    assert f"| {sum(tests) / 2:.{digits}f} |" in table


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--data", "x"], "benchmark 'digits' reads no files: --data does not apply"),
        (["digit", "--data", "x"], "did you mean 'digits'?"),
        ([FILE], "needs the option 'data' (--data PATH)"),
        ([FILE, "--data", "gone.txt"], "gone.txt is no file; it must hold a number"),
        ([FILE, "--data", "a", "--benchmark-option", "data=b"], "set the same option"),
        (["digits", "--schedule", "cosin"], "did you mean 'cosine'?"),
        (["digits", "--schedule-option", "every=2"], "option of schedule 'constant', 'every'"),
        (["digits", "--epochs", "3", "--average-last", "4"], "exceeds the number of epochs, 3"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path, command: str, arguments: list[str], message: str
) -> None:
    code, out, err = run(command, *arguments, "--out", str(tmp_path / "x"))
    assert (code, out) == (2, "")
    assert err.startswith("samo: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()
