"""A rank that fails, and what the others see of it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import samo
from tests.distributed import cases
from tests.distributed.processes import RankFailure, all_well, on_ranks
from tests.tools import same


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


def disagreements(rank: int, size: int) -> list[str]:
    """Engines that are not the same on both ranks."""
    without_numpy()
    said = []

    def attempt(**options: object) -> None:
        net = cases.model()
        with torch.no_grad():
            net.get_parameter("trunk.0.weight").add_(options.pop("shift", 0.0))  # type: ignore[arg-type]
        count = options.pop("count", 1)
        x, y = cases.batch(0, 2)
        engine = samo.SAMO(net, cases.TASKS, **{"aggregator": "ls", **options})  # type: ignore[arg-type]
        closure = lambda tasks: cases.losses_of(net, x, y, tasks)  # noqa: E731
        try:
            engine.backward([closure] * count)  # type: ignore[operator]
        except (ValueError, samo.RankError) as error:
            said.append(f"{type(error).__name__}: {error}")
        else:
            said.append("well")

    attempt(seed=rank)
    attempt(aggregator=["ls", "mgda"][rank])
    attempt(rho=0.05 + rank)
    attempt(shift=0.5 * rank)
    attempt()
    attempt(count=1 + rank)
    return said


def test_disagreements():
    """Ranks that do not have the same engine, or the same model, are told so."""
    for said in all_well(on_ranks(2, disagreements)):
        assert "seed (rank 0: 0, rank 1: 1)" in said[0]
        assert "aggregator (rank 0: " in said[1]
        assert "perturbation (rank 0: " in said[2]
        assert "the values of parameter 'trunk.0.weight' (rank 0: checksum" in said[3]
        assert said[4] == "well"
        assert said[5].startswith("RankError: The ranks are not in step")
