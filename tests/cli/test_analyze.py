"""``samo analyze``: what it writes, keeps and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from samo.analysis import (
    Cosines,
    EstimatorQuality,
    Features,
    Landscape,
    Result,
    Sharpness,
    Spectrum,
)
from samo.cli._analyses import ESTIMATORS
from samo.records import read_json
from samo.training import configured, train
from tests.cli.test_app import run

KINDS: dict[str, type[Result]] = {
    "spectrum": Spectrum,
    "cosines": Cosines,
    "cosines-perturbed": Cosines,
    "sharpness": Sharpness,
    "sharpness-global": Sharpness,
    "estimators": EstimatorQuality,
    "features": Features,
    "landscape": Landscape,
}
FIGURES = ["spectrum", "cosines", "sharpness", "estimators", "features", "landscape"]


@pytest.fixture(scope="module")
def trained_(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "gsam"
    options = {"pairs": 64, "width": 8}
    train(
        configured(benchmark="digits", benchmark_options=options, sharpness="gsam", epochs=1), out
    )
    return out


@pytest.fixture
def a_run(trained_: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_, tmp_path / "gsam"))


def test_writes_everything(a_run: Path) -> None:
    flags = [f"--{name}" for name in FIGURES]
    code, out, err = run("analyze", str(a_run), "--batches", "1", *flags)
    assert (code, err) == (0, "")
    for name, kind in KINDS.items():
        assert kind.load(a_run / "analysis" / f"{name}.json").kind in name
    assert {file.stem for file in (a_run / "analysis").glob("*.svg")} == set(FIGURES)
    found = Spectrum.load(a_run / "analysis" / "spectrum.json")
    assert f"{found.lambda_max:.4g}" in out
    said = ["λ_max/λ_5", "inter-cluster distance", "Task gradients", *ESTIMATORS]
    assert [words for words in said if words not in out] == []


def test_keeps_what_is_there_of_the_same_data(a_run: Path) -> None:
    command = ["analyze", str(a_run), "--sharpness", "--batches", "1"]
    assert "done" in run(*command)[1]
    file = a_run / "analysis" / "sharpness.json"
    kept = read_json(file)
    file.write_text(json.dumps({**kept, "rho": 77.0}))
    _, out, _ = run(*command)
    assert "exists already" in out
    assert Sharpness.load(file).rho == 77.0
    assert "done" in run(*command, "--rho", "0.5")[1]
    assert Sharpness.load(file).rho == 0.5
    assert "done" in run(*command, "--rho", "0.5", "--again")[1]
    assert "exists already" in run(*command, "--rho", "0.5")[1]


def test_several_runs_and_one_that_fails(a_run: Path) -> None:
    other = a_run.with_name("broken")
    shutil.copytree(a_run, other)
    (other / "checkpoint.pt").write_bytes(b"nothing")
    code, out, err = run("analyze", str(a_run.parent), "--spectrum", "--batches", "1")
    assert code == 1
    assert "broken" in err
    assert "checkpoint.pt cannot be read" in err
    assert str(a_run) in out
    assert (a_run / "analysis" / "spectrum.json").exists()


def test_what_cannot_be_analysed(a_run: Path, tmp_path: Path) -> None:
    for wrong, arguments in {
        "no run with a checkpoint": [str(tmp_path / "nowhere")],
        "--rho must be above 0": [str(a_run), "--rho", "0"],
        "no submodule 'heads.a'": [str(a_run), "--features", "--module", "heads.a"],
        "device 'moon'": [str(a_run), "--spectrum", "--device", "moon"],
    }.items():
        code, _, err = run("analyze", *arguments, "--batches", "1")
        assert code == 2
        assert wrong in err.replace("\n", " ")
    (a_run / "analysis").mkdir(exist_ok=True)
    (a_run / "analysis" / "spectrum.json").write_text('{"kind": "cosines"}')
    code, _, err = run("analyze", str(a_run), "--sharpness", "--batches", "1")
    assert code == 2
    assert "must be of kind 'spectrum'; found 'cosines'" in err
