"""``samo sweep``: from ranges on the command line to the table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import samo.training._compare
import samo.training._sweep
from samo.records import read_json
from tests.cli.test_app import TOY, run
from tests.training.inline import TRAINED, InlineWorkers

COMMAND = ["sweep", TOY, "--sharpness", "erm,samo", "--epochs", "1", "--trials", "2"]
COMMAND += ["--lr", "1e-3..1e-1", "--rho", "0.01..0.1", "--alpha", "0.1..0.9"]
COMMAND += ["--set", "sharpness_options.mu=0.01,0.02", "--seeds", "2"]


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    TRAINED.clear()
    for module in (samo.training._sweep, samo.training._compare):
        monkeypatch.setattr(module, "Workers", InlineWorkers)


def test_from_ranges_to_the_table(tmp_path: Path) -> None:
    out = tmp_path / "s"
    code, printed, err = run(*COMMAND, "--out", str(out))
    assert (code, err) == (0, "")
    assert "lr: 0.001..0.1:log" in printed
    assert "sharpness_options.alpha: 0.1..0.9:linear" in printed
    assert "[4/4] ls/samo/trial-001/seed-1000: done" in printed
    assert "best trials" in printed
    best = read_json(out / "best.json")
    arms = ("ls/erm", "ls/erm+ema", "ls/samo", "ls/samo+ema")
    assert {name: chosen["trials"] for name, chosen in best.items()} == dict.fromkeys(arms, 2)
    assert set(best["ls/samo"]["params"]) == {
        "lr",
        "rho",
        "sharpness_options.alpha",
        "sharpness_options.mu",
    }
    table = (out / "table.md").read_text()
    assert "Chosen on validation data, with other seeds: ls/erm (2 trials) lr = " in table
    assert "over 2 seeds" in table
    assert "| STL |" in table
    # Averaged weights may be best with other settings than raw ones.
    chosen = {f"{best[name]['trial']}/seed-{s}" for name in best for s in "01"}
    assert set(TRAINED[4:]) == chosen | {
        f"stl/{t}/seed-{s}" for t in ("sign", "size") for s in "01"
    }
    TRAINED.clear()
    code, printed, err = run(*COMMAND, "--out", str(out))
    assert (code, err, TRAINED) == (0, "", [])
    assert "Chosen on" in printed


def test_an_interrupt_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tests.training.inline.train", interrupted)
        code, _, err = run(*COMMAND, "--no-stl", "--out", str(tmp_path))
    assert code == 130
    assert "Run the same command again to resume" in err
    assert run(*COMMAND, "--no-stl", "--out", str(tmp_path))[0] == 0
    assert len(read_json(tmp_path / "best.json")) == 4


def test_the_last_process_compares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(*COMMAND, "--no-stl", "--out", str(tmp_path))[0] == 0
    (tmp_path / "table.md").unlink()
    more = [*COMMAND, "--no-stl", "--out", str(tmp_path), "--trials", "3"]

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tests.training.inline.train", interrupted)
        assert run(*more)[0] == 130
    with FileLock(tmp_path / "ls/erm/trial-002/.lock"):
        code, printed, _ = run(*more)
    assert code == 0
    assert "Trials still running in other processes: 1." in printed
    assert not (tmp_path / "table.md").exists()
    with FileLock(tmp_path / ".report.lock"):
        code, printed, _ = run(*more)
    assert code == 0
    assert "Another process is comparing the best" in printed
    assert not (tmp_path / "table.md").exists()


def test_where_every_trial_fails_the_status_says_so(tmp_path: Path) -> None:
    command = ["sweep", TOY, "--sharpness", "erm", "--epochs", "1", "--trials", "2"]
    command += ["--optimizer", "sgd", "--lr", "1e29..1e30", "--out", str(tmp_path)]
    code, _, err = run(*command)
    assert code == 1
    assert "samo: ls/erm/trial-000 failed: " in err
    assert not (tmp_path / "table.md").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit", "--lr", "1..2"], "did you mean 'digits'?"),
        (["digits"], "there is nothing to search: give a range, such as --rho 1e-3..1e-1"),
        (["digits", "--lr", "1..x"], "lr must be a range of numbers a..b; found '1..x'"),
        (["digits", "--set", "mu"], "--set must be NAME=RANGE"),
        (["digits", "--set", "mu=0..1"], "unknown setting to search 'mu'"),
        (["digits", "--lr", "0.1..1", "--set", "lr=1..2"], "lr has two ranges"),
        (["digits", "--lr", "0.1..1", "--trials", "0"], "trials must be at least 1"),
        (["digits", "--lr", "0.1..1", "--seeds", "0"], "seeds must be at least 1"),
        (["digits", "--lr", "0.1..1", "--methods", "lss"], "did you mean 'ls'?"),
        (["digits", "--lr", "0.1..1", "--data", "x"], "--data does not apply"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, out, err = run("sweep", *arguments, "--out", str(tmp_path / "x"))
    assert (code, out) == (2, "")
    assert err.startswith("samo: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()
