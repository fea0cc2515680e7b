"""``samo toy``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_app import run


def test_toy_runs_once(tmp_path: Path) -> None:
    command = ["toy", "--steps", "4", "--seed", "2", "--lr", "0.1", "--out", str(tmp_path)]
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert "ls-erm-1: done" in out
    assert "ls-gsam-1: done" in out
    assert "λ_max" in out
    assert f"{tmp_path / 'landscape.png'}" in out
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        "table.csv",
        "landscape.png",
        "landscape.svg",
        "loss_space.png",
        "loss_space.svg",
        "trajectories/ls-erm-1.npz",
        "trajectories/ls-gsam-1.npz",
    }
    with np.load(tmp_path / "trajectories" / "ls-gsam-1.npz", allow_pickle=False) as file:
        assert file["points"].shape == file["losses"].shape == (5, 2)
    (tmp_path / "trajectories" / "ls-gsam-1.npz").unlink()
    code, again, _ = run(*command)
    assert code == 0
    assert "ls-erm-1: done" not in again  # it was there
    assert "ls-gsam-1: done" in again
    code, _, err = run(*command[:2], "5", *command[3:])
    assert code == 2
    assert "steps (4 saved, 5 requested)" in err


def test_toy_front_with_methods_and_presets(tmp_path: Path) -> None:
    command = ["toy", "front", "--methods", "mgda,ls,mgda", "--sharpness", "erm,lsam"]
    code, out, _ = run(*command, "--rho", "0.3", "--steps", "2", "--out", str(tmp_path))
    assert code == 0
    assert out.count(": done") == 20  # two methods, two presets, five starts
    rows = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()
    assert [row.count(",0.3,") for row in rows[1:]] == [0] * 5 + [1] * 5 + [0] * 5 + [1] * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["vally"], "unknown problem 'vally', did you mean 'valley'?"),
        (["--methods", "ls,mgd"], "did you mean 'mgda'?"),
        (["--methods", ","], "at least one method"),
        (["--methods", "krum"], "at least 3 tasks"),
        (["--sharpness", "smao"], "did you mean 'samo'?"),
        (["--sharpness", "erm", "--rho", "1"], "no meaning for sharpness erm"),
        (["--rho", "-1"], "rho"),
        (["--steps", "0"], "steps must be at least 1"),
        (["--lr", "-1"], "lr must be positive"),
        (["--seed", "-1"], "seed must not be negative"),
        (["--methods", "constant"], "missing option 'weights'"),
        (["--methods", "cagrad", "--method-option", "b=1"], "unknown name in --method-option, 'b'"),
        (["--sharpness-option", "alpha=1"], "unknown name in --sharpness-option, 'alpha'"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    code, out, err = run("toy", *arguments, "--out", str(tmp_path / "x"))
    assert code == 2
    assert out == ""
    assert err.startswith("samo: ")
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_options_go_to_those_that_have_them(tmp_path: Path) -> None:
    command = ["toy", "--methods", "ls,cagrad", "--sharpness", "erm,samo", "--steps", "1"]
    command += ["--method-option", "c=0.7", "--sharpness-option", "mu=0.2"]
    assert run(*command, "--out", str(tmp_path))[0] == 0
    for method in ("ls", "cagrad"):
        for preset in ("erm", "samo"):
            file = tmp_path / "trajectories" / f"{method}-{preset}-1.npz"
            with np.load(file, allow_pickle=False) as content:
                setting = json.loads(str(content["setting"]))
            assert setting["method_options"] == ({"c": 0.7} if method == "cagrad" else {})
            assert setting["sharpness_options"].get("mu") == (0.2 if preset == "samo" else None)


def test_a_directory_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a file")
    code, _, err = run("toy", "--steps", "1", "--out", str(tmp_path / "x"))
    assert code == 2
    assert "cannot be written to" in err


def test_a_descent_that_fails_is_named(tmp_path: Path) -> None:
    command = ["toy", "--methods", "gls", "--lr", "1e200", "--steps", "3", "--out", str(tmp_path)]
    code, _, err = run(*command, "--sharpness", "gsam", "--rho", "1e300")
    assert code == 2
    assert err.startswith("samo: gls-gsam-1: ")
    assert err.count("\n") == 1
