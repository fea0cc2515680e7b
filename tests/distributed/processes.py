"""Running a function on several ranks, once for many cases."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import pickle
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

Worker = Callable[..., Any]
"""Called on each rank with the rank, the number of ranks and further arguments."""


def on_ranks(
    size: int, worker: Worker, *arguments: Any, timeout: float = 60.0, patience: float = 400.0
) -> list[Any]:
    """Calls a function of a module on each of some ranks, connected by gloo.

    The processes are forks of a server that has imported everything, so they start quickly.

    Args:
        size: The number of ranks.
        worker: The function.
        *arguments: Its further arguments.
        timeout: The process group's timeout in seconds.
        patience: The seconds after which a rank is taken to hang.

    Returns:
        What each rank returned, or a `RankFailure`.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.distributed.processes", "tests.distributed.cases"])
    with tempfile.TemporaryDirectory() as folder:
        pipes, ranks = [], []
        for rank in range(size):
            mine, its = context.Pipe(duplex=False)
            given = (its, Path(folder) / "store", rank, size, timeout, worker, arguments)
            process = context.Process(target=_main, args=given, daemon=True)
            process.start()
            its.close()
            pipes.append(mine)
            ranks.append(process)
        try:
            return _results(pipes, time.monotonic() + patience)
        finally:
            for process in ranks:
                process.kill()
                process.join()


class RankFailure:
    """How a rank ended, if not well.

    Attributes:
        text: The traceback of its exception; "died", or "hangs".
    """

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def all_well(results: list[Any]) -> list[Any]:
    """The results, if no rank has failed."""
    if failures := [str(result.text) for result in results if isinstance(result, RankFailure)]:
        raise AssertionError("\n".join(failures))
    return results


def _results(pipes: list[Any], end: float) -> list[Any]:
    results: dict[int, Any] = {}
    while len(results) < len(pipes):
        waiting = [pipe for i, pipe in enumerate(pipes) if i not in results]
        left = max(0.0, end - time.monotonic())
        ready: list[Any] = multiprocessing.connection.wait(waiting, left)
        if not ready:
            results |= {i: RankFailure("hangs") for i, pipe in enumerate(pipes) if pipe in waiting}
        for pipe in ready:
            try:
                results[pipes.index(pipe)] = pickle.loads(pipe.recv_bytes())
            except EOFError:
                results[pipes.index(pipe)] = RankFailure("died")
    return [results[i] for i in range(len(pipes))]


def _main(
    pipe: Any,
    store: Path,
    rank: int,
    size: int,
    timeout: float,
    worker: Worker,
    arguments: tuple[Any, ...],
) -> None:
    import torch.distributed as dist

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{store}",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout),
        )
        result = worker(rank, size, *arguments)
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        result = RankFailure(f"rank {rank}: {traceback.format_exc()}")
    # Plain bytes: multiprocessing would share tensors through files that end with this process.
    pipe.send_bytes(pickle.dumps(result))
    pipe.close()
