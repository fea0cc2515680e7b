"""Peak memory of a run."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


class PeakMemory:
    """Peak memory since the construction of this object: of the GPU, or of the process on a CPU.

    On a CPU it is the resident memory of the whole process, with Python and its libraries. Only
    Linux can reset the peak; on other systems it counts from the start of the process, so runs that
    share a process include the peaks of earlier runs.

    Args:
        device: The device of the run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with suppress(OSError):  # not Linux, or a sandbox
            (_PROCESS / "clear_refs").write_text("5", encoding="ascii")

    def megabytes(self) -> float | None:
        """Returns the peak in units of 2^20 bytes; None if the system does not report it."""
        if self._device.type == "cuda":
            return float(torch.cuda.max_memory_allocated(self._device)) / 2**20
        with suppress(OSError, ValueError, IndexError):
            status = (_PROCESS / "status").read_text(encoding="ascii", errors="replace")
            line = next((line for line in status.splitlines() if line.startswith("VmHWM:")), "")
            return int(line.split()[1]) / 2**10
        return _since_the_beginning()


def _since_the_beginning() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
