"""A rank that fails, and what the others see of it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DistributedDataParallel

import samo
from tests.distributed import cases
from tests.distributed.processes import RankFailure, all_well, on_ranks
from tests.tools import same

CPU = torch.device("cpu")


def _step(engine: samo.Engine, net: torch.nn.Module, rank: int, at: int, fault: str) -> str:
    """One step in which rank 1's closure has a fault at its call of that number."""
    x, y = cases.batch(0, 2)
    calls = 0

    def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        found = cases.losses_of(net, x[rank::2], y[rank::2], tasks)
        if rank == 1 and calls == at:
            if fault == "error":
                raise LookupError("no such file")
            if fault == "die":
                os._exit(9)
            if fault == "sleep":
                time.sleep(15)
            if "b" in found:
                found["b"] = found["b"] * float("nan")
        return found

    try:
        engine.backward(losses)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "well"


def without_numpy() -> None:
    """In this process, numpy is not there any more: samo does not require it."""

    def refused(tensor: Tensor) -> None:
        raise RuntimeError("Numpy is not available")

    sys.modules["numpy"] = None  # type: ignore[assignment]
    torch.Tensor.numpy = refused  # type: ignore[assignment, method-assign]


def faults(rank: int, size: int) -> dict[str, str]:
    """Every evaluation of a step in turn fails; then a step succeeds."""
    without_numpy()
    found = {}
    for preset, method in [("SAMO", "fairgrad"), ("GSAM", "ls"), ("FMTL", "uw"), ("ERM", "famo")]:
        for fault in ("error", "nan"):
            for at in range(1, 12):
                net = cases.model()
                engine = getattr(samo, preset)(net, cases.TASKS, aggregator=method)
                before = {n: p.detach().clone() for n, p in net.named_parameters()}
                said = _step(engine, net, rank, at, fault)
                if said == "well":
                    break
                same({n: p.detach() for n, p in net.named_parameters()}, before)
                assert all(parameter.grad is None for parameter in net.parameters())
                assert _step(engine, net, rank, 0, "") == "well"
                found[f"{preset} {fault} {at}"] = said
    return found


def test_a_fault_on_one_rank_stops_all():
    """The other rank names it; a loss that is NaN on one rank is the same error on both."""
    zero, one = all_well(on_ranks(2, faults))
    assert zero.keys() == one.keys()
    assert len(zero) > 20
    for name, said in one.items():
        if " error " in name:
            assert said == "LookupError: no such file"
            assert zero[name].startswith("RankError: Another rank has failed"), zero[name]
            assert "rank 1: LookupError: " in zero[name]
        else:
            assert said == zero[name]
            assert "of task 'b' is not finite" in said


def death(rank: int, size: int, fault: str, at: int) -> None:
    """A step in which rank 1 dies, or sleeps."""
    net = cases.model()
    engine = samo.SAMO(net, cases.TASKS, aggregator="fairgrad")
    said = _step(engine, net, rank, at, fault)
    same(
        {n: p.detach() for n, p in net.named_parameters()},
        {n: p.detach() for n, p in cases.model().named_parameters()},
    )
    raise SystemExit(said)


@pytest.mark.parametrize("at", [1, 3])
def test_a_rank_that_dies(at):
    """The other one stops with an error that says so."""
    zero, one = on_ranks(2, death, "die", at)
    assert isinstance(one, RankFailure)
    assert one.text == "died"
    assert "RankError: Rank 0 cannot reach another rank: it has died" in str(zero)


@pytest.mark.slow
def test_a_rank_that_does_not_answer():
    """The process group's timeout ends the wait; the late rank finds nobody."""
    for rank, said in enumerate(on_ranks(2, death, "sleep", 2, timeout=6.0)):
        assert f"RankError: Rank {rank} cannot reach another rank" in str(said)


def _net(rank: int, change: str) -> Any:
    """The model, which differs on rank 1."""
    net: Any = cases.model()
    first = net.get_parameter("trunk.0.weight")
    if rank == 1:
        if change == "values":
            with torch.no_grad():
                first.add_(0.5)
        elif change == "dtype":
            net.float()
        elif change == "frozen":
            first.requires_grad_(False)
        elif change == "order":
            net.heads = torch.nn.ModuleDict(dict(reversed(net.heads.items())))
        elif change == "shape":
            net.trunk[2] = torch.nn.Linear(7, 5, bias=False).double()
        elif change == "buffer":
            net.register_buffer("count", torch.zeros(2))
        elif change == "lazy":
            net.lazy = torch.nn.LazyLinear(3)
    return net


DIFFERENT: dict[str, tuple[dict[str, list[object]], str]] = {
    "seed": ({"seed": [0, 1]}, "seed (rank 0: 0, rank 1: 1)"),
    "method": ({"aggregator": ["ls", "mgda"]}, "aggregator (rank 0: "),
    "rho": ({"rho": [0.05, 1.05]}, "perturbation (rank 0: "),
    "matrix": (
        {"gradient_dtype": [None, torch.float32]},
        "gradient_dtype (rank 0: None, rank 1: torch.float32)",
    ),
    "more tasks": (
        {"tasks": [["a", "b"], cases.TASKS]},
        "tasks (rank 0: ['a', 'b'], rank 1: ['a', 'b', 'c'])",
    ),
    "other tasks": ({"tasks": [cases.TASKS, [*"abd"]]}, "tasks (rank 0: ['a', 'b', 'c'], rank 1"),
    "level": (
        {"level": ["parameter", "representation"], "alpha": [1.0, 1.0]},
        "level (rank 0: 'parameter', rank 1: 'representation')",
    ),
    "declared": ({"own": [None, "heads.a"]}, "declaration of 'heads.a.weight' (rank 0: none, rank"),
    "shared": ({"own": ["heads.a", "heads.b"]}, "declaration of 'heads.a.weight' (rank 0: own['a"),
    "values": ({}, "the values of parameter 'trunk.0.weight' (rank 0: checksum"),
    "dtype": ({}, "parameter 'trunk.0.weight' (rank 0: number 0, [7, 4], torch.float64"),
    "frozen": (
        {},
        "parameter 'trunk.0.weight' (rank 0: number 0, [7, 4], torch.float64, requires_",
    ),
    "order": ({}, "parameter 'heads.a.weight' (rank 0: number 4, [1, 5], torch.float64"),
    "shape": ({}, "parameter 'trunk.2.bias' (rank 0: number 3, [5], torch.float64"),
    "buffer": ({}, "buffer 'count' (rank 0: none, rank 1: [2], torch.float32)"),
    "wrapper": ({}, "broadcast_buffers (rank 0: True, rank 1: False)"),
}


def _attempt(engine: samo.Engine, net: torch.nn.Module, count: int = 1) -> str:
    x, y = cases.batch(0, 2)
    closure = lambda tasks: cases.losses_of(net, x, y, tasks)  # noqa: E731
    try:
        engine.backward([closure] * count)
    except (ValueError, samo.RankError) as error:
        return f"{type(error).__name__}: {error}"
    return "well"


def disagreements(rank: int, size: int) -> dict[str, str]:
    """Engines that are not the same on both ranks."""
    without_numpy()
    said = {}
    for kind, (options, _) in DIFFERENT.items():
        net = _net(rank, kind)
        mine = {name: values[rank] for name, values in options.items()}
        if isinstance(head := mine.get("own"), str):
            mine["own"] = {head[-1]: net.get_submodule(head)}
        wrapped = net
        if kind == "wrapper":
            wrapped = DistributedDataParallel(net, broadcast_buffers=rank == 0)
        chosen: dict[str, Any] = {"tasks": cases.TASKS, "aggregator": "ls", **mine}
        said[kind] = _attempt(samo.SAMO(wrapped, **chosen), net)
    for name in ("", "trunk"):
        net = cases.model()
        if name:
            net.trunk = FullyShardedDataParallel(net.trunk, device_id=CPU)  # type: ignore[arg-type]
        else:
            net = FullyShardedDataParallel(net, device_id=CPU)
        with pytest.raises(ValueError, match="FSDP1") as caught:
            samo.SAMO(net, cases.TASKS, aggregator="ls")
        said[f"FSDP1 {name}"] = str(caught.value)
    net = _net(rank, "lazy")
    said["lazy"] = _attempt(samo.SAMO(net, cases.TASKS, aggregator="ls"), net)
    net = cases.model()
    engine = samo.GSAM(net, cases.TASKS, aggregator="ls", rho=0.1)
    said["same"] = _attempt(engine, net)
    engine.rho = 0.2
    said["same radius"] = _attempt(engine, net)
    engine.rho = 0.3 + rank
    said["another radius"] = _attempt(engine, net)
    engine.rho = 0.3
    said["same radius again"] = _attempt(engine, net)
    net.get_parameter("trunk.0.bias").requires_grad_(rank == 0)
    said["frozen later"] = _attempt(engine, net)
    net.get_parameter("trunk.0.bias").requires_grad_()
    said["closures"] = _attempt(engine, net, 1 + rank)
    return said


def test_disagreements():
    """Ranks that do not have the same engine, or the same model, are told so."""
    for rank, said in enumerate(all_well(on_ranks(2, disagreements))):
        for kind, (_, message) in DIFFERENT.items():
            assert said[kind].startswith("ValueError: The ranks must have the same engine."), kind
            assert message in said[kind], (kind, said[kind])
        for name, where in [("", "The model"), ("trunk", "'trunk' in the model")]:
            assert said[f"FSDP1 {name}"].startswith(
                f"{where} is a FullyShardedDataParallel (FSDP1)"
            )
            assert "use torch.distributed.fsdp.fully_shard" in said[f"FSDP1 {name}"]
        lazy = ["RankError: Another rank has failed", "ValueError: 'lazy.weight' is uninitialised"]
        assert said["lazy"].startswith(lazy[rank])
        assert said["same"] == said["same radius"] == said["same radius again"] == "well"
        assert "rho (rank 0: 0.3, rank 1: 1.3)" in said["another radius"]
        assert "trainable parameters (rank 0: trunk.0.weight, trunk.0" in said["frozen later"]
        assert said["closures"].startswith("RankError: The ranks are not in step")
