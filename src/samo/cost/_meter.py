"""Time and memory, on the CPU and on a GPU."""

from __future__ import annotations

import gc
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, final

import torch


class Meter(ABC):
    """Measures time and memory on a device."""

    @abstractmethod
    def mark(self) -> Any:
        """Returns a point in time; on a GPU, records an event without synchronization."""

    @abstractmethod
    def wait(self) -> None:
        """Waits until the device is idle."""

    @abstractmethod
    def seconds(self, start: Any, end: Any) -> float:
        """Returns the time between two marks; only valid after `wait`."""

    @abstractmethod
    def peak(self, work: Callable[[], object]) -> int:
        """Returns by how many bytes a function increases the peak memory of tensors."""


@final
class CPUMeter(Meter):
    """Wall-clock time, and the memory of PyTorch's allocator.

    PyTorch's allocations are the same in every run; buffers allocated by libraries are excluded.
    """

    def mark(self) -> float:
        return time.perf_counter()

    def wait(self) -> None:
        pass

    def seconds(self, start: float, end: float) -> float:
        return end - start

    def peak(self, work: Callable[[], object]) -> int:
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise it logs its start to stderr
        from torch.profiler import ProfilerActivity, profile

        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            work()
        assert profiler.profiler is not None
        assert profiler.profiler.kineto_results is not None
        events = profiler.profiler.kineto_results.events()
        allocations = [event for event in events if event.name() == "[memory]"]
        total = most = 0
        for event in sorted(allocations, key=lambda event: event.start_ns()):
            total += event.nbytes()
            most = max(most, total)
        return most


@final
class CUDAMeter(Meter):
    """Time between events on the device, and the memory of PyTorch's allocator.

    Args:
        device: The device.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def wait(self) -> None:
        torch.cuda.synchronize(self._device)

    def seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        return float(start.elapsed_time(end)) / 1000

    def peak(self, work: Callable[[], object]) -> int:
        gc.collect()
        self.wait()
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        work()
        self.wait()
        return torch.cuda.max_memory_allocated(self._device) - before


def meter(device: torch.device) -> Meter:
    """Returns the meter of a device."""
    return CUDAMeter(device) if device.type == "cuda" else CPUMeter()
