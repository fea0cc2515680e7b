"""The command line: what it prints, and how it fails."""

from __future__ import annotations

import csv
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import samo.cli
from samo import aggregation, benchmarks
from samo.cli._app import app
from samo.cli._run_options import RunOptions
from samo.records import read_json
from samo.report.page import html_page
from samo.training import PRESETS, SCHEDULES, plan, train
from tests.training.inline import InlineWorkers

TOY = "tests.toy:Toy"


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def test_list_names_everything() -> None:
    code, out, _ = run("list")
    assert code == 0
    for name in [*benchmarks.available(), *aggregation.available(), *PRESETS, *SCHEDULES]:
        assert name in out


def test_list_methods_says_what_each_needs() -> None:
    _, out, _ = run("list", "methods")
    (line,) = [line for line in out.splitlines() if "│ fairgrad " in line]
    assert "gramian" in line
    assert "alpha=2.0" in line
    assert "Ban and Ji 2024" in line
    by_name = {line.split("│")[1].strip(): line for line in out.splitlines() if "│" in line}
    assert " kept " in by_name["dwa"]
    assert " trained " in by_name["uw"]
    assert not {"kept", "trained"} & set(line.split())
    levels = {name: by_name[name].split("│")[4].strip() for name in ("ls", "fairgrad", "moco")}
    assert levels == {"ls": "–", "fairgrad": "both", "moco": "parameter"}


def test_list_sharpness_has_the_options() -> None:
    _, out, _ = run("list", "sharpness")
    assert "mu=0.01" in out


def test_train_writes_what_was_asked_for(tmp_path: Path) -> None:
    command = ["train", TOY, "--out", str(tmp_path / "x"), "--method", "fairgrad", "--epochs", "2"]
    command += ["--method-option", "alpha=1.5", "--sharpness", "samo", "--rho", "0.2"]
    command += ["--sharpness-option", "mu=0.03", "--sharpness-option", "noise=rademacher"]
    command += ["--benchmark-option", "n=24", "--seed", "7", "--lr", "0.02", "--batch-size", "6"]
    command += ["--weight-decay", "0.1", "--optimizer", "adamw", "--clip", "2", "--device", "cpu"]
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert "epoch 1/2" in out
    assert "the best on validation data" in out
    config = read_json(tmp_path / "x" / "config.json")
    expected: dict[str, Any] = {
        "benchmark": TOY,
        "benchmark_options": {"n": 24},
        "tasks": None,
        "method": "fairgrad",
        "method_options": {"alpha": 1.5},
        "sharpness": "samo",
        "rho": 0.2,
        "epochs": 2,
        "batch_size": 6,
        "lr": 0.02,
        "weight_decay": 0.1,
        "optimizer": "adamw",
        "clip": 2.0,
        "seed": 7,
        "device": "cpu",
        "threads": 1,
    }
    assert {key: config[key] for key in expected} == expected
    assert config["sharpness_options"]["mu"] == 0.03
    assert config["sharpness_options"]["noise"] == "rademacher"
    again = run(*command)
    assert again[0] == 0
    assert "epoch 1/2" not in again[1]  # it is finished


def test_compare_prints_the_table_and_writes_everything(tmp_path: Path) -> None:
    for cell in plan(TOY, ["ls"], ["erm", "gsam"], [0.02, 0.05], 2, epochs=2, lr=0.03, ema=0.98):
        train(cell.config, tmp_path / cell.path)  # so that no process need be started
    command = ["compare", TOY, "--sharpness", "erm,gsam", "--rho", "0.02,0.05", "--seeds", "2"]
    command += ["--contrast", "erm+ema:gsam", "--out", str(tmp_path)]
    code, out, err = run(*command, "--epochs", "2", "--lr", "0.03")
    assert (code, err) == (0, "")
    assert "gsam+ema" in out
    assert "erm+ema − gsam" in out
    assert "1 contrast was looked at" in out
    assert "[10/10] ls/gsam/rho-0.05/seed-1: done" in out
    assert "sign accuracy (%) ↑" in out
    assert "size error ↓" in out
    for name in ("table.csv", "table.md", "learning_curves.png", "delta_m.svg", "rho.png"):
        assert (tmp_path / name).stat().st_size > 0
    assert f"{tmp_path / 'delta_m.png'}" in out


def test_compare_at_both_levels(tmp_path: Path) -> None:
    both = ["parameter", "representation"]
    cells = plan(TOY, ["ls", "mgda"], ["erm"], [], 1, levels=both, stl=False, epochs=1)
    for cell in cells:
        train(cell.config, tmp_path / cell.path)  # so that no process need be started
    command = ["compare", TOY, "--methods", "ls,mgda", "--sharpness", "erm", "--seeds", "1"]
    command += ["--level", ",".join(both), "--no-stl", "--epochs", "1", "--out", str(tmp_path)]
    code, out, err = run(*command, "--ema", "0")
    assert (code, err) == (0, "")
    assert "At the parameters only (see `samo list methods`): ls/erm." in out
    assert "mgda/erm@representation/seed-0: done" in out
    table = (tmp_path / "table.md").read_text()
    assert "| mgda | erm@representation |" in table
    assert "@representation: task gradients are compared at the representation" in table
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["sharpness"], row["level"]) for row in rows] == [
        ("ls", "erm", "parameter"),
        ("mgda", "erm", "parameter"),
        ("mgda", "erm", "representation"),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "digits", "--level", "heads"], "level = 'heads': Input should be 'parameter'"),
        (
            ["train", "digits", "--sharpness", "samo", "--level", "representation"],
            "level='representation' compares task gradients of one forward pass",
        ),
        (["compare", "digits", "--level", "heads"], "unknown level 'heads'"),
        (["train", "digit"], "unknown benchmark 'digit', did you mean 'digits'?"),
        (["train", "digits", "--method", "fairgrd"], "did you mean 'fairgrad'?"),
        (["train", "digits", "--sharpness", "smao"], "did you mean 'samo'?"),
        (["train", "digits", "--tasks", "lefft"], "unknown task 'lefft', did you mean 'left'?"),
        (["train", "digits", "--rho", "0.1"], "rho = 0.1 has no meaning for sharpness 'erm'"),
        (["train", "digits", "--sharpness", "samo", "--rho", "-1"], "rho = -1.0"),
        (["train", "digits", "--method-option", "alpha"], "NAME=VALUE"),
        (["train", "digits", "--method-option", "a=1", "--method-option", "a=2"], "'a' twice"),
        (["train", "digits", "--method-option", "alpha=2"], "unknown option 'alpha'"),
        (["train", "digits", "--benchmark-option", "pair=2"], "did you mean 'pairs'?"),
        (["train", "digits", "--benchmark-option", "pairs=0"], "pairs must be at least 1"),
        (["train", "nowhere:Nothing"], "cannot be imported"),
        (["compare", "digit"], "did you mean 'digits'?"),
        (["compare", "digits", "--methods", "ls,mgd"], "did you mean 'mgda'?"),
        (["compare", "digits", "--sharpness", "erm,samoo"], "did you mean 'samo'?"),
        (["compare", "digits", "--rho", "0.1;0.2"], "numbers with commas between them"),
        (["compare", "digits", "--seeds", "0"], "seeds must be at least 1"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, out, err = run(*arguments, "--out", str(tmp_path / "x"))
    assert code == 2
    assert out == ""
    assert err.startswith("samo: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "arguments", [["train", "digits"], ["train", "digits", "--out", "x", "--y"]]
)
def test_wrong_usage_has_the_same_status(arguments: list[str]) -> None:
    assert run(*arguments)[0] == 2


def test_a_directory_of_another_run(tmp_path: Path) -> None:
    common = ["train", TOY, "--epochs", "1", "--out", str(tmp_path)]
    assert run(*common)[0] == 0
    code, _, err = run(*common, "--seed", "1")
    assert code == 2
    assert "seed (0 saved, 1 requested)" in err


def test_divergence_is_told_without_a_traceback(tmp_path: Path) -> None:
    code, _, err = run("train", TOY, "--lr", "1e30", "--optimizer", "sgd", "--out", str(tmp_path))
    assert code in {1, 2}
    assert err.startswith("samo: ")
    assert "finite" in err or "nan" in err or "inf" in err


def test_an_interrupt_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("samo.cli._app.train", interrupted)
    code, _, err = run("train", TOY, "--out", str(tmp_path))
    assert code == 130
    assert "Run the same command again to resume" in err


def test_compare_tunes_several_learning_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("samo.training._compare.Workers", InlineWorkers)
    command = ["compare", TOY, "--sharpness", "erm,gsam", "--epochs", "1", "--no-stl"]
    command += ["--rho", "0.1", "--seeds", "2", "--trial-seeds", "1", "--out", str(tmp_path)]
    code, out, err = run(*command, "--lr", "1e-6,1e-4", "--extend")
    assert (code, err) == (0, "")
    assert "lr: 1e-06, 0.0001, 0.01\n" in out  # the best was at the edge
    assert "best trials" in out
    table = (tmp_path / "table.md").read_text()
    assert "Chosen on validation data, with other seeds: ls/erm (" in table
    assert "| ls | gsam+ema | 0.1 |" in table
    page = html_page(tmp_path).html
    assert "with other seeds" in page
    assert "gsam+ema" in page
    assert "not compared" in page  # the trials
    code, _, err = run(*command, "--lr", "0.1", "--extend")
    assert code == 2
    assert "--extend needs several values of --lr" in err


def test_failed_runs_are_named_and_the_status_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compare(cells: Any, out: Path, **_: Any) -> dict[str, str]:
        out.mkdir(parents=True, exist_ok=True)
        runs = [
            {"path": c.path, "baseline": c.baseline, "config": c.config.model_dump()} for c in cells
        ]
        (out / "compare.json").write_text(json.dumps({"runs": runs, "contrasts": []}))
        return {cells[0].path: "it was not to be"}

    monkeypatch.setattr("samo.cli._compare.compare", compare)
    code, _, err = run("compare", TOY, "--seeds", "1", "--out", str(tmp_path))
    assert code == 1
    assert "samo: stl/sign/seed-0 failed: it was not to be" in err


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "samo.cli._app")
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as error:
        samo.cli.main()
    assert error.value.code == 2
    assert 'pip install "torch-samo[train]"' in capsys.readouterr().err


def test_version() -> None:
    assert run("--version")[:2] == (0, f"samo {samo.__version__}\n")


def test_train_compare_and_sweep_have_the_same_options_of_a_run() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    options = [
        {p.name: (p.opts, p.help, p.default) for p in commands[name].params}
        for name in ("train", "compare", "sweep")
    ]
    for one in fields(RunOptions):
        assert options[0][one.name] == options[1][one.name] == options[2][one.name]
