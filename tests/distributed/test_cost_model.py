"""The cost model agrees with the collective operations of a step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch.distributed as dist
from benchmarks._cost_model import Sizes, Transfer, cost
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import samo
from samo.aggregation import method_of
from samo.distributed import Replicated
from tests.distributed import cases
from tests.distributed.processes import all_well, on_ranks

EXACT = samo.ExactGradient()
SETTINGS: list[dict[str, Any]] = [
    {"method": "fairgrad"},
    {"method": "fairgrad", "divided_from": 1 << 40},
    {"method": "ls", "perturbation": samo.Perturbation(0.1, alpha=1.0)},
    {"method": "fairgrad", "perturbation": samo.Perturbation(0.1)},
    {"method": "uw", "perturbation": samo.Perturbation(0.1, local=samo.SPSA(antithetic=False))},
    {"method": "mgda", "perturbation": samo.Perturbation(0.1, alpha=0.0, local=EXACT)},
    {"method": "ls", "perturbation": samo.Perturbation(0.1, alpha=0.3, local=EXACT)},
    {
        "method": "mgda",
        "perturbation": samo.Perturbation(0.1, alpha=0.0, local=EXACT),
        "decompose": True,
    },
    {"method": "pcgrad", "perturbation": samo.Perturbation(0.1)},
    {"method": "uw", "perturbation": samo.Perturbation(0.1, local=samo.PreviousGradient())},
    {"method": "mgda", "perturbation": samo.Perturbation(0.1), "sync_perturbation": False},
]


class Counting(TorchDispatchMode):
    """Counts collective operations, and the bytes of the larger of input and output."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.payload = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.startswith("c10d::"):
            lists = [arg if isinstance(arg, list) else [arg] for arg in args]
            sizes = [t.nbytes for tensors in lists for t in tensors if isinstance(t, Tensor)]
            self.calls[func._schema.name] += 1
            self.payload += max(sizes)
        return func(*args, **(kwargs or {}))


def counted(rank: int, size: int) -> list[tuple[int, int]]:
    """Counts calls and bytes of the second step of each setting."""
    found = []
    for setting in SETTINGS:
        options = dict(setting)
        before = Replicated.divided_from
        Replicated.divided_from = options.pop("divided_from", 0)
        net = cases.model()
        engine = samo.Engine(net, cases.TASKS, aggregator=options.pop("method"), **options)
        x, y = cases.batch(0, 4)

        def losses(tasks: Any, net: Any = net, x: Tensor = x, y: Tensor = y) -> dict[str, Tensor]:
            return cases.losses_of(net, x, y, tasks)

        engine.backward(losses)
        with Counting() as counting:
            engine.backward(losses)
        Replicated.divided_from = before
        found.append((sum(counting.calls.values()), counting.payload))
    return found


def planned(ranks: int) -> list[tuple[int, int]]:
    """Estimates the same by the model."""
    net, found = cases.model(), []
    own = [p.numel() for p in net.get_submodule("heads").parameters()]
    every = [parameter.numel() for parameter in net.parameters()]
    sizes = Sizes(
        tasks=3, shared=sum(every) - sum(own), own=sum(own), tensors=len(every), element=8
    )
    for setting in SETTINGS:
        options = {"perturbation": None, "divided_from": 0, **setting}
        method = method_of(samo.aggregation.create(options.pop("method"), 3))
        assert method is not None
        plan = cost(needs=method.needs, sizes=sizes, ranks=ranks, **options)
        found.append((plan.calls, plan.payload))
    return found


def test_calls_and_bytes_of_two_ranks() -> None:
    for found in all_well(on_ranks(2, counted)):
        assert found == planned(2)


@pytest.mark.parametrize("ranks", [64, 1024])
def test_calls_and_bytes_of_many_ranks(ranks: int) -> None:
    """On torch's fake process group, which sends nothing."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        assert counted(0, ranks) == planned(ranks)
    finally:
        dist.destroy_process_group()


def test_a_ring_sends_three_quarters_with_four_ranks_and_twice_that_to_sum() -> None:
    sent = {kind: Transfer("", kind, 100, 1).sent(4) for kind in ("all_reduce", "all_gather")}
    assert sent == {"all_reduce": 150.0, "all_gather": 75.0}


def test_dividing_the_columns_halves_the_traffic_of_many_tasks() -> None:
    """A rank then keeps 1/N of the task gradients."""
    sizes = Sizes(tasks=40, shared=1 << 24)
    whole, divided = (cost(None, needs, sizes, ranks=16) for needs in ("gradients", "gramian"))
    assert divided.sent / whole.sent == pytest.approx((40 + 1) / (2 * 40), rel=1e-3)
    assert whole.memory == 16 * divided.memory
    assert divided.seconds(1e9) == pytest.approx(divided.sent / 1e9)


def test_eleven_tasks_on_a_resnet_50_and_eight_ranks() -> None:
    """At 25 GB/s, with 30 µs per collective operation."""
    step = cost(samo.Perturbation(0.05), "gramian", Sizes(tasks=11, shared=25_000_000), ranks=8)
    assert f"{step.sent / 1e9:.2f} GB, {step.seconds(25e9, 30e-6):.3f} s" == "1.23 GB, 0.051 s"
