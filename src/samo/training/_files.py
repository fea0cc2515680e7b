"""The directory of a run: what lies in it, how it is written, and how it is read."""

from __future__ import annotations

import json
import pickle
import traceback
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from .._files import write_atomically as write_atomically
from .._files import write_json as write_json
from ._config import RunConfig, differences, upgraded
from ._errors import RunError


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Args:
        path: The file.

    Returns:
        What it holds.

    Raises:
        RunError: If it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


class RunDirectory:
    """The files of one run.

    ``config.json`` is the configuration, ``log.jsonl`` and ``tensorboard/`` the log,
    ``checkpoint.pt`` the state after the last complete epoch (with the best epoch's weights), and
    ``results.json`` is there when the run is finished, ``error.txt`` when it failed.

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

    def check(self, config: RunConfig) -> None:
        """Makes sure that the directory holds no run of another configuration.

        Args:
            config: The configuration at hand.

        Raises:
            RunError: If it does, or if its configuration cannot be read.
        """
        if self.config_file.exists():
            saved = upgraded(read_json(self.config_file))
            differing = differences(saved, config.model_dump(mode="json"))
            if differing:
                raise RunError(
                    f"{self.path} holds a run of another configuration: {differing}. Name another "
                    f"directory, or delete this one."
                )

    def results(self) -> dict[str, Any] | None:
        """The results, or None if the run is not finished."""
        found: dict[str, Any] | None = None
        if self.results_file.exists():
            found = read_json(self.results_file)
        return found

    @contextmanager
    def opened(self, config: RunConfig) -> Iterator[None]:
        """Holds the directory for a run of this configuration, against other processes.

        Args:
            config: The configuration.

        Yields:
            Nothing; the directory is there, with its configuration in it.

        Raises:
            RunError: If another process is at work there, or it holds another configuration.
        """
        # The system lets go of the lock when the process ends, however it ends.
        lock = FileLock(self.path / ".lock", timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout as error:
            raise RunError(f"another process is training in {self.path}.") from error
        except OSError as error:
            raise RunError(f"{self.path} cannot be written to: {error}") from error
        with lock:
            self.check(config)
            if not self.config_file.exists():
                write_json(self.config_file, config.model_dump(mode="json"))
            yield

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Writes down why training fails within the block, in the place of an earlier failure.

        Yields:
            Nothing.

        Raises:
            Exception: Whatever was raised.
        """
        self.error_file.unlink(missing_ok=True)
        try:
            yield
        except Exception:
            self.error_file.write_text(traceback.format_exc(), encoding="utf-8")
            raise

    def save_checkpoint(self, state: dict[str, Any]) -> None:
        """Replaces the checkpoint.

        Args:
            state: What to save: tensors and plain values.
        """
        write_atomically(self.checkpoint_file, lambda beside: torch.save(state, beside))

    def load_checkpoint(self, config: RunConfig) -> dict[str, Any] | None:
        """Reads the checkpoint, without running code from it.

        Args:
            config: The configuration at hand.

        Returns:
            What was saved, or None if there is none.

        Raises:
            RunError: If it cannot be read, or is of another configuration.
        """
        if not self.checkpoint_file.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(
                self.checkpoint_file, map_location="cpu", weights_only=True
            )
            saved = upgraded(state["config"])
        except (
            OSError,
            RuntimeError,
            EOFError,
            KeyError,
            TypeError,
            pickle.UnpicklingError,
            zipfile.BadZipFile,
        ) as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise RunError(
                f"{self.checkpoint_file} cannot be read ({reason}). Delete it to start the run "
                f"again."
            ) from error
        differing = differences(saved, config.model_dump(mode="json"))
        if differing:
            raise RunError(f"{self.checkpoint_file} is of another configuration: {differing}.")
        return state
