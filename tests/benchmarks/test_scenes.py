"""Rendered scenes as data: in memory, and as files for the readers of the real data."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from samo.benchmarks import Cityscapes, DataError, NYUv2, Scenes, create
from samo.benchmarks.scenes import SceneSet, write_scenes
from samo.benchmarks.scenes._layouts import arrays, rendered
from samo.cli._app import app
from samo.training import RunError, configured, train, trained
from samo.training._run import Run

SIZE = (32, 64)


def order(**changes: Any) -> SceneSet:
    values: dict[str, Any] = {
        "layout": "nyuv2",
        "train": 3,
        "val": 2,
        "seed": 0,
        "height": 32,
        "width": 64,
    }
    return SceneSet(**(values | changes))


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_an_image_depends_on_seed_part_and_number_only() -> None:
    image = rendered("nyuv2", 1, 0, 5, SIZE)
    np.random.default_rng(0).random(10)
    again = rendered("nyuv2", 1, 0, 5, SIZE)
    assert all(np.array_equal(a, b) for a, b in zip(image, again, strict=True))
    for other in ((2, 0, 5), (1, 1, 5), (1, 0, 6)):
        assert not np.array_equal(image.image, rendered("nyuv2", *other, SIZE).image)


def test_the_size_changes_the_sampling_and_not_the_scene() -> None:
    """At three times the size, every third pixel has the same ray, up to rounding.

    Rounding can decide which surface a ray hits at an edge, so a few labels may differ. Elsewhere
    the images agree to the float32 precision that they are stored in.
    """
    small, large = (rendered("nyuv2", 0, 0, 1, (32 * k, 64 * k)) for k in (1, 3))
    label, depth, normal = (of[1::3, 1::3] for of in (large.label, large.depth, large.normal))
    same = label == small.label
    assert same.mean() > 0.99
    np.testing.assert_allclose(depth[same], small.depth[same], rtol=1e-6)
    np.testing.assert_allclose(normal[same], small.normal[same], atol=1e-6)


def test_batches_have_the_rendered_images() -> None:
    benchmark = Scenes(images=3, size=SIZE, seed=4)
    for part, split in enumerate(("train", "validation", "test")):
        batch = next(iter(benchmark.batches(split, benchmark.tasks, 2)))  # type: ignore[arg-type]
        for i in range(2):
            image = rendered("nyuv2", 4, part, i, SIZE)
            rgb = (255 * batch["image"][i]).round().byte().movedim(0, -1).numpy()
            np.testing.assert_array_equal(rgb, image.image)
            np.testing.assert_array_equal(batch["segmentation"][i].numpy(), image.label)
            np.testing.assert_array_equal(batch["depth"][i, 0].numpy(), image.depth)
            normals = batch["normals"][i].movedim(0, -1).numpy()
            np.testing.assert_array_equal(normals, image.normal)


def test_the_constructor_renders_nothing_and_does_not_change_generators() -> None:
    state = torch.get_rng_state()
    assert len(Scenes(images=10**6).batches("train", ["depth"], 8)) == 125_000
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": 0}, "images must be at least 1; found 0"),
        ({"held_out": 0}, "held_out must be at least 1; found 0"),
        ({"size": [96]}, "size must be height and width; found (96,)"),
        ({"size": [96, 100]}, "must be multiples of 32; found 96 and 100"),
        ({"seed": -1}, "seed must be at least 0; found -1"),
        ({"width": 0}, "width must be at least 1; found 0"),
        ({"network": "unet"}, "unknown network 'unet'"),
    ],
)
def test_invalid_options_raise_errors(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        create("scenes", **options)


# Any two of layout, sharpness and network together.
@pytest.mark.parametrize(
    ("layout", "sharpness", "network"),
    [
        ("nyuv2", "erm", "segnet-mtan"),
        ("nyuv2", "samo", "segnet"),
        ("cityscapes", "erm", "segnet"),
        ("cityscapes", "samo", "segnet-mtan"),
    ],
)
def test_files_are_written_read_and_trained_on(
    tmp_path: Path, layout: str, sharpness: str, network: str
) -> None:
    data = tmp_path / "data"
    write_scenes(order(layout=layout, train=5), data)
    config = configured(
        benchmark=layout,
        benchmark_options={"data": str(data), "width": 2, "network": network, "validation": 0.2},
        method="fairgrad",
        sharpness=sharpness,
        epochs=1,
        batch_size=2,
    )
    steps = []
    results = train(config, tmp_path / "run", watch=lambda p: steps.append(p.step))
    assert steps == [1, 2, 0]
    test = results["selected"]["test"]
    assert set(test) == {"segmentation", "depth"} | ({"normals"} if layout == "nyuv2" else set())
    assert 0 <= test["segmentation"]["mIoU"] <= test["segmentation"]["pixel accuracy"] <= 100
    assert test["depth"]["absolute error"] == pytest.approx(test["depth"]["loss"], rel=1e-4)
    if layout == "nyuv2":
        normals = test["normals"]
        assert 0 < normals["mean angle"] < 180
        assert normals["within 11.25"] <= normals["within 22.5"] <= normals["within 30"] <= 100
    assert ("sharpness/depth" in results["history"][0]["steps"]) == (sharpness == "samo")


def test_scenes_resume_bit_for_bit(tmp_path: Path) -> None:
    config = configured(
        benchmark="scenes",
        benchmark_options={
            "images": 4,
            "held_out": 2,
            "size": list(SIZE),
            "width": 2,
            "network": "segnet",
        },
        sharpness="gsam",
        epochs=2,
        batch_size=2,
    )

    class Killed(BaseException):
        pass

    def kill(progress: Any) -> None:
        if (progress.epoch, progress.step) == (2, 1):
            raise Killed

    whole = train(config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(config, tmp_path / "killed", watch=kill)
    resumed = train(config, tmp_path / "killed")
    assert resumed["history"] == whole["history"]
    assert resumed["last"] == whole["last"]


def test_the_model_of_a_run_is_restored(tmp_path: Path) -> None:
    options = {"images": 4, "held_out": 4, "size": list(SIZE), "width": 2}
    config = configured(benchmark="scenes", benchmark_options=options, epochs=1, batch_size=2)
    results = train(config, tmp_path / "run")
    before = torch.get_rng_state()
    found = trained(tmp_path / "run")
    assert torch.equal(torch.get_rng_state(), before)
    assert (found.config, found.epoch, found.tasks) == (config, 1, found.benchmark.tasks)
    from samo.training._evaluate import evaluate

    batches = found.benchmark.batches("test", found.tasks, 8)
    scores, _ = evaluate(found.benchmark, found.model, found.tasks, batches, torch.device("cpu"))
    assert scores == results["selected"]["test"]
    with pytest.raises(RunError, match="holds no run with a checkpoint"):
        trained(tmp_path)


@pytest.mark.parametrize(
    ("layout", "kind", "folders"),
    [
        ("nyuv2", NYUv2, ["image", "label", "depth", "normal"]),
        ("cityscapes", Cityscapes, ["image", "label", "depth"]),
    ],
)
def test_files_have_the_rendered_images(
    tmp_path: Path, layout: str, kind: Any, folders: list[str]
) -> None:
    write_scenes(order(layout=layout), tmp_path)
    for part, (name, n) in enumerate((("train", 3), ("val", 2))):
        assert sorted(p.name for p in (tmp_path / name).iterdir()) == sorted(folders)
        for i in range(n):
            expected = arrays(layout, rendered(layout, 0, part, i, SIZE))
            for folder in folders:
                array = np.load(tmp_path / name / folder / f"{i}.npy", allow_pickle=False)
                assert array.dtype == np.float32
                np.testing.assert_array_equal(array, expected[folder])
    benchmark = kind(data=tmp_path)
    batch = next(iter(benchmark.batches("test", benchmark.tasks, 2)))
    first = rendered(layout, 0, 1, 0, SIZE)
    depth = batch["depth"][0, 0].numpy()
    seen = first.depth > 0
    np.testing.assert_allclose(
        depth[seen], first.depth[seen] if layout == "nyuv2" else 1 / first.depth[seen], rtol=1e-6
    )
    assert not depth[~seen].any()


def test_interrupted_writing_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_scenes(order(), tmp_path / "whole")
    original = np.save

    def interrupted(file: Any, arr: np.ndarray, **options: Any) -> None:
        if arr.ndim == 3 and arr.shape[-1] == 1 and len(list((out / "depth").glob("?.npy"))) == 1:
            file.write(b"half of it")
            raise KeyboardInterrupt
        original(file, arr, **options)

    out = tmp_path / "broken" / "train"
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_scenes(order(), tmp_path / "broken")
    kept = tmp_path / "broken" / "train" / "image" / "0.npy"
    before = kept.stat().st_mtime_ns
    told: list[tuple[int, int]] = []
    write_scenes(order(), tmp_path / "broken", lambda *done: told.append(done))
    assert told == [(i, 5) for i in range(1, 6)]
    assert kept.stat().st_mtime_ns == before
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


def test_other_directories_are_not_changed(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path} is not an empty directory")):
        write_scenes(order(), tmp_path)
    with pytest.raises(DataError, match="is not an empty directory"):
        write_scenes(order(), tmp_path / "thesis.tex")
    assert content(tmp_path) == {"thesis.tex": b"important"}
    other = tmp_path / "other"
    write_scenes(order(), other)
    before = content(other)
    with pytest.raises(DataError, match=r"scenes.json describes other scenes: .*'seed': 0"):
        write_scenes(order(seed=1), other)
    assert content(other) == before


def test_an_error_in_writing_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot be written to: .*Not a directory"):
        write_scenes(order(), tmp_path / "file" / "data")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layout": "nyu"}, "unknown layout 'nyu', did you mean 'nyuv2'?"),
        ({"train": 1}, "train must be at least 2; found 1"),
        ({"val": 0}, "val must be at least 1; found 0"),
        ({"seed": -1}, "seed must be at least 0; found -1"),
        ({"height": 100}, "height must be a multiple of 32; found 100"),
        ({"width": 0}, "width must be a multiple of 32; found 0"),
    ],
)
def test_an_invalid_scene_set_raises_an_error(changes: Any, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        order(**changes)


def test_the_command_writes_the_requested_files(tmp_path: Path) -> None:
    out = tmp_path / "data"
    command = ["data", "scenes", "--layout", "cityscapes", "--out", str(out)]
    command += ["--train", "2", "--val", "1", "--seed", "3", "--size", "32x64"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "images 3/3" in result.output
    asked = json.loads((out / "scenes.json").read_text())
    assert asked["layout"] == "cityscapes"
    assert (asked["height"], asked["width"]) == SIZE
    array = np.load(out / "val" / "label" / "0.npy")
    np.testing.assert_array_equal(array, rendered("cityscapes", 3, 1, 0, SIZE).label)
    assert CliRunner().invoke(app, command).exit_code == 0  # nothing is left to do


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "32"], "--size must be HxW, for instance 96x128; found '32'"),
        (["--size", "33x64"], "height must be a multiple of 32; found 33"),
        (["--train", "0"], "train must be at least 2; found 0"),
    ],
)
def test_the_command_reports_errors_in_one_line(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "data"
    result = CliRunner().invoke(app, ["data", "scenes", "--out", str(out), *arguments])
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
    assert not out.exists()


def test_predictions_of_a_run_are_shown(tmp_path: Path) -> None:
    options = {"images": 2, "held_out": 4, "size": list(SIZE), "width": 2}
    config = configured(benchmark="scenes", benchmark_options=options, epochs=1, batch_size=2)
    train(config, tmp_path / "run")
    figure = tmp_path / "figures" / "a.png"
    command = ["show", str(tmp_path / "run"), "--out", str(figure), "--images", "2"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert figure.read_bytes().startswith(b"\x89PNG")
    for wrong, message in (
        (["show", str(tmp_path), "--out", str(figure)], "holds no run with a checkpoint"),
        (["show", str(tmp_path / "run"), "--out", "a.txt"], "must be a .png, an .svg or a .jpg"),
    ):
        result = CliRunner().invoke(app, wrong)
        assert result.exit_code == 2
        assert message in result.output.replace("\n", " ")


def test_only_dense_prediction_has_pictures(tmp_path: Path) -> None:
    train(configured(benchmark="tests.toy:Toy", epochs=1), tmp_path / "run")
    command = ["show", str(tmp_path / "run"), "--out", str(tmp_path / "a.png")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "this is a run of 'tests.toy:Toy'" in result.output.replace("\n", " ")


def test_an_error_in_the_data_during_training_is_reported_in_one_line(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_scenes(order(train=4), data)
    path = data / "train" / "depth" / "2.npy"
    np.save(path, np.full((*SIZE, 1), np.nan, dtype=np.float32))
    command = ["train", "nyuv2", "--data", str(data), "--out", str(tmp_path / "run")]
    command += ["--epochs", "1", "--benchmark-option", "width=2"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert f"{path}: a value is not finite" in result.output.replace("\n", " ")


def test_the_partition_is_the_published_one() -> None:
    """All parameters but the heads are shared, including SegNet-MTAN's masks of one task each."""
    options: Any = {"images": 4, "held_out": 4, "size": [32, 64], "width": 2}
    run = Run(configured(benchmark="scenes", benchmark_options=options, batch_size=2))
    run.train_epoch()
    partition = run.engine._setting.partition
    heads = {task: list(run.model.heads[task].parameters()) for task in run.tasks}  # type: ignore[index, union-attr]
    assert {task: set(map(id, own)) for task, own in partition.own.items()} == {
        task: set(map(id, parameters)) for task, parameters in heads.items()
    }
    n_shared = sum(p.numel() for p in partition.shared)
    n_own = sum(p.numel() for parameters in heads.values() for p in parameters)
    assert n_shared == sum(p.numel() for p in run.model.parameters()) - n_own
