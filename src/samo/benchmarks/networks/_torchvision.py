"""Loads weights from torchvision's files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import DataError


def load_weights(module: nn.Module, file: Path, ignored: Sequence[str] = ()) -> None:
    """Loads a ``state_dict`` into a module, without running code from it.

    The module changes only if all tensors fit.

    Args:
        module: The module.
        file: A file of ``torch.save``.
        ignored: Names in the file that the module does not have.

    Raises:
        DataError: If the file does not exist, cannot be read, or does not fit the module.
    """
    if not file.is_file():
        raise DataError(
            f"there is no weight file {file}. It must be a state_dict as torchvision publishes it, "
            f"for instance resnet18-f37072fd.pth."
        )
    state = _read(file)
    # Files from before PyTorch 0.4.1 do not count the batches, and nothing uses the count.
    counters = "num_batches_tracked"
    own = {name: t for name, t in module.state_dict().items() if not name.endswith(counters)}
    given = {
        name: tensor
        for name, tensor in state.items()
        if name not in ignored and not name.endswith(counters)
    }
    faults = [
        *_faults("is missing", own.keys() - given.keys()),
        *_faults("is unexpected", given.keys() - own.keys()),
        *(
            f"{name} has shape {tuple(given[name].shape)}, but must have {tuple(tensor.shape)}"
            for name, tensor in own.items()
            if name in given and given[name].shape != tensor.shape
        ),
    ]
    if faults:
        more = f"; and {len(faults) - 3} more faults" if len(faults) > 3 else ""
        raise DataError(
            f"{file} does not fit {type(module).__name__}: {'; '.join(faults[:3])}{more}."
        )
    module.load_state_dict(given, strict=False)


def _read(file: Path) -> dict[str, Tensor]:
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True)
    # torch, pickle and zipfile raise almost any error for a damaged file.
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{file} cannot be read as weights: {reason}") from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise DataError(f"{file} must contain a state_dict: a dictionary of tensors.")
    return state


def _faults(fault: str, names: Iterable[str]) -> list[str]:
    return [f"{name} {fault}" for name in sorted(names)]
