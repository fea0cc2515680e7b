"""Task gradients compared at the representation by several processes."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard

import samo
from samo import aggregation
from tests.distributed.cases import TASKS, Net, batch, losses_of, model, wrap
from tests.distributed.processes import all_well, on_ranks
from tests.distributed.test_cost_model import Counting

RHO = 0.1


class Tied(Net):
    """A head that uses a weight of the trunk itself."""

    def forward(self, x: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        out = super().forward(x, tasks)
        if "a" in out:
            weight = self.trunk.get_parameter("2.weight")
            out["a"] = out["a"] + (self.trunk(x) @ weight).sum(-1).tanh()
        return out


class Root(Net):
    """A network that is sharded as a whole, and has parameters on both sides of the cut."""


def net_of(kind: type[Net]) -> nn.Module:
    torch.manual_seed(7)
    return kind().double()


def values(net: nn.Module, result: samo.StepResult) -> dict[str, Any]:
    """What a step has found."""
    assert result.gramian is not None
    found = {"gramian": result.gramian, "level": result.level}
    for name, parameter in net.named_parameters():
        gradient: Any = parameter.grad
        found[name] = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
    return found


def one_step(kind: type[Net], x: Tensor, y: Tensor, **options: Any) -> dict[str, Any]:
    """One step of G-SAM at the representation."""
    net = net_of(kind)
    if kind is Root and torch.distributed.is_initialized():
        fully_shard(net)
    engine = samo.GSAM(net, TASKS, aggregator="upgrad", rho=RHO, level="representation", **options)
    result = engine.backward(lambda tasks: losses_of(net, x, y, tasks), batch_size=len(x))
    return values(net, result)


def on_part(rank: int, size: int, kind: type[Net], **options: Any) -> dict[str, Any]:
    """The step of one rank."""
    x, y = batch(1, size)
    return one_step(kind, x[4 * rank : 4 * rank + 4], y[4 * rank : 4 * rank + 4], **options)


def single_tasks(rank: int, level: Any) -> dict[str, Any]:
    """Rank 0 has two tasks, which share a tensor, rank 1 has one, which shares none."""
    net = model()
    x, y = batch(rank, 2)
    here = ["a", "b"] if rank == 0 else ["c"]
    engine: Any = samo.ERM(net, TASKS, aggregator="fairgrad", level=level)
    result = engine.backward(
        lambda tasks: losses_of(net, x, y, [task for task in tasks if task in here])
    )
    return values(net, result)


def bytes_of(rank: int, method: str, wrapper: str, level: Any = "parameter") -> int:
    """The bytes that a rank sends in a step."""
    net = wrap(model(), wrapper)
    x, y = batch(rank, 2, even=True)
    engine: Any = samo.ERM(net, TASKS, aggregator=method, level=level)
    engine.backward(lambda tasks: losses_of(net, x, y, tasks))
    with Counting() as counting:
        engine.backward(lambda tasks: losses_of(net, x, y, tasks))
    return counting.payload


def everything(rank: int, size: int) -> dict[str, Any]:
    """What one rank finds in all tests."""
    return {
        "tied": on_part(rank, size, Tied),
        "root": on_part(rank, size, Root),
        "apart": on_part(rank, size, Net, sync_perturbation=False),
        "single": [single_tasks(rank, level) for level in ("parameter", "representation")],
        "bytes": {
            "plain": bytes_of(rank, "ls", "plain"),
            "plain representation": bytes_of(rank, "mgda", "plain", "representation"),
            "fsdp": bytes_of(rank, "ls", "fsdp"),
            "fsdp representation": bytes_of(rank, "mgda", "fsdp", "representation"),
        },
    }


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    """What two ranks find."""
    return all_well(on_ranks(2, everything))


@pytest.mark.parametrize(("name", "kind"), [("tied", Tied), ("root", Root)])
def test_equivalence(ranks: list[dict[str, Any]], name: str, kind: type[Net]) -> None:
    """Columns that belong to parameters, and a unit with parameters on both sides of the cut."""
    want = one_step(kind, *batch(1, 2))
    assert want["level"] == "representation"
    for found in (rank[name] for rank in ranks):
        for key, value in want.items():
            if isinstance(value, Tensor):
                torch.testing.assert_close(found[key], value, rtol=1e-9, atol=1e-9)
            else:
                assert found[key] == value


def test_ranks_with_different_representations(ranks: list[dict[str, Any]]) -> None:
    """The step is the one at the parameters, and says so."""
    for want, found in (rank["single"] for rank in ranks):
        assert found["level"] == want["level"] == "parameter"
        torch.testing.assert_close(
            {k: v for k, v in found.items() if k != "level"},
            {k: v for k, v in want.items() if k != "level"},
            rtol=1e-10,
            atol=1e-10,
        )


def test_each_rank_perturbs_along_its_own_gradient(ranks: list[dict[str, Any]]) -> None:
    """m-sharpness: z of each rank is that at its own point."""
    size, gramian = 2, torch.zeros(3, 3, dtype=torch.float64)
    points, parts = [], [tuple(t[4 * r : 4 * r + 4] for t in batch(1, 2)) for r in range(size)]
    share = [len(x) / sum(len(x) for x, _ in parts) for x, _ in parts]
    for (x, y), weight in zip(parts, share, strict=True):
        net: Any = net_of(Net)
        own = [list(net.heads[task].parameters()) for task in TASKS]
        losses = losses_of(net, x, y, TASKS)
        torch.stack(list(losses.values())).mean().backward()
        with torch.no_grad():
            for group in [list(net.trunk.parameters()), *own]:
                norm = torch.stack([p.grad.norm() for p in group]).norm()
                for parameter in group:
                    parameter.add_(parameter.grad, alpha=RHO / norm.item())
        net.zero_grad()
        points.append(net)
        there = copy.deepcopy(net)
        h = there.trunk(x).detach().requires_grad_()
        there.trunk = nn.Identity()
        found = losses_of(there, h, y, TASKS)
        rows = [torch.autograd.grad(found[t], h, retain_graph=True)[0].flatten() for t in TASKS]
        matrix = weight * torch.stack(rows)
        gramian += matrix @ matrix.T
    combiner: Any = aggregation.combiner(aggregation.create("upgrad", 3), 3)
    weights = combiner.weights(gramian, range(3))
    total = dict.fromkeys([n for n, _ in points[0].trunk.named_parameters()], torch.zeros(()))
    for net, (x, y), part in zip(points, parts, share, strict=True):
        losses = losses_of(net, x, y, TASKS)
        sum(w * losses[t] for w, t in zip(weights, TASKS, strict=True)).backward()
        total = {n: part * net.trunk.get_parameter(n).grad + total[n] for n in total}
    for result in (rank["apart"] for rank in ranks):
        torch.testing.assert_close(result["gramian"], gramian, rtol=1e-9, atol=1e-9)
        for name, value in total.items():
            torch.testing.assert_close(result[f"trunk.{name}"], value, rtol=1e-9, atol=1e-9)


def test_bytes(ranks: list[dict[str, Any]]) -> None:
    """Those of a weighted sum, whose weights are known, and K² numbers."""
    message = 8 * (2 * len(TASKS) + 5)
    for found in (rank["bytes"] for rank in ranks):
        # The ranks agree on what z is (four integers), and exchange the Gramian.
        more = 8 * (len(TASKS) ** 2 + 4) + 3 * message
        assert found["plain representation"] - found["plain"] <= more
        # The units around the cut stay gathered from the first pass to the second. FSDP prefetches
        # the one before in the first pass, in vain: its shards have 4 of 7 rows, with padding.
        prefetched = 2 * 8 * 4 * (4 + 1)
        assert found["fsdp representation"] - found["fsdp"] <= more + prefetched
