"""Saves and loads trajectories."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ..records import differences, write_atomically
from ..training import RunError
from ._setting import Setting
from ._trajectory import Trajectory


def save(trajectory: Trajectory, path: Path | str) -> None:
    """Writes ``points``, ``losses`` and the ``setting`` (JSON) to an npz file, atomically.

    Args:
        trajectory: The trajectory.
        path: The file.
    """
    content: dict[str, Any] = {
        "points": trajectory.points,
        "losses": trajectory.losses,
        "setting": np.array(json.dumps(trajectory.setting.plain())),
    }
    write_atomically(Path(path), lambda file: np.savez_compressed(file, **content))


def load(path: Path | str, setting: Setting) -> Trajectory:
    """Reads a trajectory.

    Args:
        path: The file.
        setting: The expected setting.

    Returns:
        The trajectory.

    Raises:
        RunError: If the file cannot be read, or has another setting.
    """
    try:
        # Opened here, since numpy would leave a damaged file open.
        with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as content:
            saved = json.loads(str(content["setting"]))
            points, losses = content["points"], content["losses"]
        shape = (setting.steps + 1, 2)
        differing = differences(saved, setting.plain())
        whole = differing or points.shape == losses.shape == shape
    # NumPy and zipfile raise almost any error for a damaged file.
    except Exception as error:
        raise RunError(f"{path} cannot be read: {error}. Delete it to run it again.") from error
    if differing:
        raise RunError(
            f"{path} has another setting: {differing}. Choose another directory, or delete it."
        )
    if not whole:
        raise RunError(f"{path} is damaged: its points and losses are not of shape {shape}.")
    return Trajectory(setting, points, losses)
