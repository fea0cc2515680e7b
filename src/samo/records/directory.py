"""Files of a run and of a comparison: their paths, and functions to write and read them."""

from __future__ import annotations

import io
import traceback
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from ._differences import differences
from ._errors import RunError
from ._files import read_json, write_atomically, write_json, write_text, writing
from .foreign import UnusableError
from .schema import M, Planned, Results, validated

T = TypeVar("T")


class RunDirectory:
    """The files of one run.

    ``config.json`` is the configuration, ``log.jsonl`` and ``tensorboard/`` the log,
    ``checkpoint.pt`` the state after the last complete epoch (with the best epoch's weights).
    ``results.json`` exists when the run is finished, ``error.txt`` when it failed.

    Args:
        path: The directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_file = path / "config.json"
        self.log_file = path / "log.jsonl"
        self.checkpoint_file = path / "checkpoint.pt"
        self.results_file = path / "results.json"
        self.error_file = path / "error.txt"
        self.tensorboard = path / "tensorboard"

    @property
    def begun(self) -> bool:
        """Whether the directory has a file of a run other than ``error.txt``."""
        files = (self.config_file, self.results_file, self.log_file, self.checkpoint_file)
        return any(file.exists() for file in files)

    def check(self, config: Mapping[str, Any]) -> None:
        """Raises RunError if the directory holds a run of another configuration."""
        if self.config_file.exists() and (differing := differences(self.config(), config)):
            raise RunError(
                f"{self.path} holds a run of another configuration: {differing}. Choose another "
                f"directory, or delete this one."
            )

    def config(self) -> dict[str, Any]:
        """Reads the fields of the configuration."""
        return _of_type(dict, read_json(self.config_file), self.config_file)

    def results(self) -> dict[str, Any] | None:
        """Reads the results (see `Results`); None if the run is not finished."""
        if not self.results_file.exists():
            return None
        return _valid(Results, read_json(self.results_file), self.results_file).plain()

    @contextmanager
    def opened(self, config: Mapping[str, Any]) -> Iterator[None]:
        """Creates the directory, locks it against other processes, and writes the configuration.

        Yields:
            Nothing.

        Raises:
            RunError: If another process uses it, or it holds another configuration.
        """
        # The system releases the lock when the process ends, however it ends.
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise RunError(f"another process is training in {self.path}.") from error
        except OSError as error:
            raise RunError(f"{self.path} cannot be written to: {error}") from error
        with lock:
            for left in self.path.glob(".*.new"):  # by a process that was killed while writing
                left.unlink()
            self.check(config)
            if not self.config_file.exists():
                write_json(self.config_file, config)
            yield

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Records an exception raised in the block in ``error.txt``, replacing an earlier one."""
        with writing(self.error_file):
            self.error_file.unlink(missing_ok=True)
        try:
            yield
        except Exception:
            with suppress(RunError):  # the disk may be full, which is then the error to report
                self.record_failure(traceback.format_exc())
            raise

    def record_failure(self, reason: str) -> None:
        """Writes ``error.txt``."""
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        write_text(self.error_file, reason)

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint; `state` holds tensors and plain values only."""
        import torch

        # torch hides the reason if it cannot write to a file itself, such as a full disk.
        content = io.BytesIO()
        torch.save(state, content)
        write_atomically(self.checkpoint_file, lambda file: file.write(content.getbuffer()))

    def load_checkpoint(self, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """Reads and verifies the checkpoint, without running code from it.

        Returns:
            The saved state; None if there is no checkpoint.

        Raises:
            RunError: If it cannot be read, or belongs to another configuration.
        """
        if not self.checkpoint_file.exists():
            return None
        try:
            state = _verified(self.checkpoint_file.read_bytes())
            differing = differences({**state["config"]}, config)
        # torch, pickle and zipfile raise almost any error for damaged content.
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RunError(
                f"{self.checkpoint_file} cannot be read ({reason}). Delete it to restart the run."
            ) from error
        if differing:
            raise RunError(f"{self.checkpoint_file} belongs to another configuration: {differing}.")
        return state


def _verified(content: bytes) -> dict[str, Any]:
    """Reads a file of ``torch.save``, whose CRC-32 torch itself does not verify."""
    import torch

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if (damaged := archive.testzip()) is not None:
            raise ValueError(f"it is damaged: the checksum of {damaged} is another")
    state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def write_plan(out: Path, runs: Sequence[Planned], contrasts: Iterable[str] = ()) -> None:
    """Writes the runs and the named contrasts of a comparison to its ``compare.json``.

    Contrasts that were named in an earlier call are kept, so that their number is known.
    """
    named = read_contrasts(out) if (out / "compare.json").exists() else []
    content = {
        "runs": [run.plain() for run in runs],
        "contrasts": list(dict.fromkeys([*named, *contrasts])),
    }
    write_json(out / "compare.json", content)


def read_plan(out: Path) -> list[Planned]:
    """Reads the runs of a comparison; raises RunError if there is none."""
    file = out / "compare.json"
    return [_valid(Planned, item, file) for item in _listed(file, "runs")]


def read_contrasts(out: Path) -> list[str]:
    """Reads the contrasts that a comparison names; raises RunError if there is none."""
    return [str(text) for text in _listed(out / "compare.json", "contrasts")]


def _listed(file: Path, key: str) -> list[Any]:
    return _of_type(list, _of_type(dict, read_json(file), file).get(key), file)


def _of_type(kind: type[T], value: Any, file: Path) -> T:
    if not isinstance(value, kind):
        wanted = "object" if kind is dict else "object with lists of runs"
        raise RunError(f"{file} cannot be read: it is not a JSON {wanted}.")
    return value


def _valid(kind: type[M], value: Any, file: Path) -> M:
    try:
        return validated(kind, value)
    except UnusableError as error:
        raise RunError(f"{file} cannot be read: {error}") from error
