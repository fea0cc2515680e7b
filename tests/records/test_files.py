"""Damaged files of a run, full disks, and links: an error that names the file, or nothing lost."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from samo.records import (
    Log,
    RunError,
    open_to_append,
    read_json,
    read_lines,
    write_atomically,
    write_json,
    write_text,
)
from samo.records.directory import RunDirectory, read_plan, write_plan
from samo.records.foreign import UnusableError, parse
from samo.records.schema import Planned, validated
from tests.report.pages import config

CONTENT: dict[str, Any] = {
    "number": 0.1 + 0.2,
    "tiny": 5e-324,
    "many": [1, 2.5, None, True, "text é \u2028"],
    "inner": {"a": {"b": -1e100}},
}
STATE: dict[str, Any] = {
    "config": {"seed": 0, "rho": 0.05},
    "model": {"weight": torch.arange(12.0).view(3, 4), "bias": torch.tensor([1.5, -2.5])},
    "best": {"epoch": 3, "score": 0.25},
}


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(same(found[k], expected[k]) for k in found)
    return bool(found == expected and type(found) is type(expected))


def test_json_comes_back(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", CONTENT)
    assert read_json(tmp_path / "x.json") == CONTENT
    raw = json.loads((tmp_path / "x.json").read_text())
    assert {**raw, "checksum": ""} == {**CONTENT, "checksum": ""}
    # Another layout of the same content is the same content; so is one without a checksum.
    (tmp_path / "x.json").write_text(json.dumps(raw, indent=7).replace("\n", "\r\n"))
    assert read_json(tmp_path / "x.json") == CONTENT
    (tmp_path / "x.json").write_text(json.dumps(CONTENT))
    assert read_json(tmp_path / "x.json") == CONTENT


def test_bits_of_a_json_file(tmp_path: Path) -> None:
    """A flipped bit is an error, or changes nothing but the name of the checksum."""
    file = tmp_path / "x.json"
    write_json(file, CONTENT)
    content = file.read_bytes()
    for bit in range(0, 8 * len(content), 3):
        file.write_bytes(flipped(content, bit))
        message, found = "", {}
        try:
            found = read_json(file)
        except RunError as error:
            message = str(error)
        assert str(file) in message or {name: found.get(name) for name in CONTENT} == CONTENT
        with suppress(UnusableError):
            parse(file.read_text(errors="replace"))
            assert not message.endswith("on purpose.")


def checkpoint(path: Path) -> RunDirectory:
    path.mkdir(exist_ok=True)
    directory = RunDirectory(path)
    directory.save_checkpoint(STATE)
    return directory


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    found = checkpoint(tmp_path).load_checkpoint(STATE["config"])
    assert same(found, STATE)
    assert names(tmp_path) == ["checkpoint.pt"]
    assert same(torch.load(tmp_path / "checkpoint.pt", weights_only=True), STATE)


def test_bits_of_a_checkpoint(tmp_path: Path) -> None:
    """Those of the numbers and of the directory of the archive, and some of the rest."""
    directory = checkpoint(tmp_path)
    content = directory.checkpoint_file.read_bytes()
    numbers = content.index(torch.arange(12.0).numpy().tobytes())
    chosen = [*range(0, 8 * len(content), 403), *range(8 * numbers, 8 * (numbers + 48), 5)]
    for bit in [*chosen, *range(8 * (len(content) - 200), 8 * len(content), 7)]:
        directory.checkpoint_file.write_bytes(flipped(content, bit))
        message, found = "", None
        try:
            found = directory.load_checkpoint(STATE["config"])
        except RunError as error:
            message = str(error)
        assert f"{directory.checkpoint_file} " in message or same(found, STATE), bit
        assert "\n" not in message


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "half": lambda content: content[: len(content) // 2],
    "a byte short": lambda content: content[:-3],
    "text": lambda _: b"not a checkpoint",
    "pickle": lambda _: b"\x80\x04K\x01.",
    "noise": lambda content: random.Random(0).randbytes(len(content)),
    "deep": lambda _: b"[" * 100_000,
    "twice": lambda content: content + content[:100],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_file_of_a_run_that_is_damaged(damage: str, tmp_path: Path) -> None:
    directory = checkpoint(tmp_path)
    write_json(directory.config_file, STATE["config"])
    write_json(directory.results_file, {"x": 1})
    write_plan(tmp_path, [validated(Planned, {"path": "x", "baseline": True, "config": config()})])
    readers: dict[str, Callable[[], Any]] = {
        "checkpoint.pt": lambda: directory.load_checkpoint(STATE["config"]),
        "config.json": directory.config,
        "results.json": directory.results,
        "compare.json": lambda: read_plan(tmp_path),
    }
    for name, read in readers.items():
        file = tmp_path / name
        content = DAMAGES[damage](file.read_bytes())
        file.write_bytes(content)
        if name == "checkpoint.pt" and damage == "twice":
            continue  # bytes after an archive are none of its
        with pytest.raises(RunError) as error:
            read()
        assert str(file) in str(error.value)
        file.unlink()
        file.mkdir()
        with pytest.raises(RunError, match=r"cannot be read.*[Dd]irectory"):
            read()


@pytest.mark.parametrize("content", [[1, 2], {}, {"config": 3}, None, torch.ones(2)])
def test_a_checkpoint_with_other_content(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "checkpoint.pt")
    with pytest.raises(RunError, match=r"checkpoint.pt cannot be read \(.*Delete it to restart"):
        RunDirectory(tmp_path).load_checkpoint({})


def test_lines_of_a_log(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    with Log(file, tmp_path / "tensorboard", "epoch") as log:
        for epoch in (1, 2):
            log.write({"epoch": epoch, "score": 10.25 * epoch})
    content = file.read_bytes()
    assert [record["score"] for record, _ in read_lines(file, "epoch")] == [10.25, 20.5]
    file.write_bytes(content.replace(b"20.5", b"20.4"))
    with pytest.raises(ValueError, match=r"line 2 of .*log.jsonl .* does not match its checksum"):
        [*read_lines(file, "epoch")]


def full(_: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = checkpoint(tmp_path)
    write_json(directory.config_file, CONTENT)
    monkeypatch.setattr(os, "fsync", full)
    for write, file in [
        (lambda: directory.save_checkpoint({}), directory.checkpoint_file),
        (lambda: write_json(directory.config_file, {}), directory.config_file),
        (lambda: directory.record_failure("x"), directory.error_file),
    ]:
        with pytest.raises(RunError, match=r"cannot be written: No space left on device\.$") as e:
            write()
        assert str(e.value).startswith(str(file))
    assert names(tmp_path) == ["checkpoint.pt", "config.json"]
    assert same(directory.load_checkpoint(STATE["config"]), STATE)
    assert read_json(directory.config_file) == CONTENT


def test_the_first_error_on_a_full_disk_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = RunDirectory(tmp_path)
    monkeypatch.setattr(os, "fsync", full)

    def fail() -> None:
        with directory.failures():
            directory.save_checkpoint(STATE)

    with pytest.raises(RunError, match=r"checkpoint\.pt cannot be written"):
        fail()
    assert not directory.error_file.exists()


LIMITED = """
import resource, sys
from pathlib import Path
import torch
from samo.records.directory import RunDirectory
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
from samo.cli._console import reporting_errors
with reporting_errors():
    RunDirectory(Path(sys.argv[1])).save_checkpoint({"x": torch.ones(10_000)})
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other limits")
def test_a_real_limit_of_the_system(tmp_path: Path) -> None:
    assert resource.RLIMIT_FSIZE is not None
    command = [sys.executable, "-c", LIMITED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "checkpoint.pt cannot be written: File too large." in done.stderr
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["checkpoint.pt", "config.json", "error.txt"])
def test_links_are_replaced_and_not_followed(name: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "kept").write_text("kept")
    for planted in (name, f"{name}.new", f".{name}.new"):
        (tmp_path / "run" / planted).symlink_to(tmp_path / "kept")
    directory = RunDirectory(tmp_path / "run")
    directory.save_checkpoint(STATE)
    write_json(directory.config_file, CONTENT)
    directory.record_failure("x")
    assert (tmp_path / "kept").read_text() == "kept"
    assert not (tmp_path / "run" / name).is_symlink()


def test_a_log_is_not_appended_to_what_a_link_leads_to(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "kept")
    with pytest.raises(OSError, match=r"symbolic link|Too many levels"):
        open_to_append(tmp_path / "log.jsonl")
    assert (tmp_path / "kept").read_text() == "kept"


def test_interrupted_writing_leaves_nothing(tmp_path: Path) -> None:
    write_text(tmp_path / "x", "old")

    def interrupted(file: Any) -> None:
        file.write(b"new")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "x", interrupted)
    assert (tmp_path / "x").read_text() == "old"
    assert names(tmp_path) == ["x"]
    # What a killed process leaves is deleted by the next one that trains there.
    (tmp_path / ".0123456789abcdef.new").write_text("half")
    with RunDirectory(tmp_path).opened(STATE["config"]):
        assert not list(tmp_path.glob(".*.new"))


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "x", "")
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_names_that_are_too_long(tmp_path: Path) -> None:
    for path in (tmp_path / ("x" * 300), tmp_path / "/".join(["x" * 100] * 50)):
        with pytest.raises(RunError, match="cannot be written: File name too long"):
            write_json(path, CONTENT)
