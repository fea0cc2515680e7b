"""A short training run, by one process with the whole batches or by several with their parts."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel

import samo
from samo.distributed import Replicated

TASKS = ["a", "b", "c"]
PRESETS = ["ERM", "GSAM", "LSAM", "FMTL", "SAMO"]
METHODS = ["ls", "mgda", "fairgrad", "uw", "famo"]
WRAPPERS = ["plain", "ddp", "fsdp"]
NOBODY = -1
SHARED_ONLY = (("rho_own", 0.0),)
HEADS: dict[str, Any] = {"rho": 0.0, "rho_own": 0.1}
AT: dict[str, Any] = {"level": "representation"}


@dataclass(frozen=True)
class Case:
    """What a run is made of.

    Attributes:
        preset: The preset.
        method: The aggregation method.
        wrapper: How the model lies on the ranks.
        lacking: The rank that has no labels of task c in the last step.
        options: Further options of the preset, by name.
        divided_from: The model size from which on columns are divided.
        micro: The number of micro-batches.
        unsized: Whether sizes are left out (which asks for even batches).
        apart: Whether each rank perturbs along its own gradient: one process with a micro-batch for
            each rank does the same.
    """

    preset: str
    method: str
    wrapper: str = "plain"
    lacking: int = 1
    options: tuple[tuple[str, Any], ...] = ()
    divided_from: int = 0
    micro: int = 1
    unsized: bool = False
    apart: bool = False


MATRIX = [Case(*parts) for parts in itertools.product(PRESETS, METHODS, WRAPPERS)]
VARIANTS = [
    Case("SAMO", "fairgrad", options=(("adaptive", True),)),
    Case("SAMO", "fairgrad", "fsdp", options=(("adaptive", True),)),
    Case("SAMO", "mgda", options=(("local", samo.PreviousGradient()),)),
    Case("SAMO", "mgda", "fsdp", options=(("local", samo.PreviousGradient()),)),
    Case("SAMO", "uw", options=(("local", samo.PreviousGradient()),)),
    Case("SAMO", "fairgrad", options=(("local", samo.SPSA(antithetic=False, samples=2)),)),
    Case("SAMO", "mgda", "fsdp", options=(("local", samo.SPSA(normalization="global")),)),
    Case("SAMO", "mgda", "fsdp", options=(("decompose", True),)),
    Case("SAMO", "mgda", "ddp", options=(("decompose", True),)),
    Case("GSAM", "pcgrad"),
    Case("SAMO", "mgda", "inner ddp"),
    Case("GSAM", "upgrad", "inner ddp", options=tuple(AT.items())),
    Case("LSAM", "gradvac", "ddp"),
    Case("LSAM", "mgda", divided_from=1 << 30),
    Case("LSAM", "uw", micro=2),
    Case("FMTL", "mgda", micro=2),
    Case("GSAM", "fairgrad", "fsdp", micro=2),
    Case("LSAM", "fairgrad", "ddp", lacking=NOBODY, unsized=True),
    Case("LSAM", "fairgrad", apart=True),
    Case("GSAM", "mgda", "ddp", apart=True),
    Case("FMTL", "mgda", apart=True),
    Case("SAMO", "mgda", options=(("local", samo.ExactGradient()),), apart=True),
    Case("SAMO", "mgda", options=(("local", samo.ExactGradient()),)),
    Case("SAMO", "uw", "fsdp", options=(("local", samo.ExactGradient()),)),
    Case("SAMO", "mgda", options=(("local", samo.LastLayers(0.5)),)),
    Case("SAMO", "uw", "fsdp", options=(("local", samo.LastLayers(0.5)),)),
    Case("SAMO", "mgda", "ddp", options=(("local", samo.TaskGroups(2)),)),
    Case("SAMO", "fairgrad", "fsdp", options=(("local", samo.TaskGroups(2)), ("alpha", 0.0))),
    *(
        Case("GSAM", "fair-rise", wrapper, options=SHARED_ONLY)
        for wrapper in ("plain", "ddp", "fsdp")
    ),
    Case("GSAM", "fair-rise", micro=2, options=SHARED_ONLY),
    Case("GSAM", "fair-rise", apart=True, options=SHARED_ONLY),
    *(
        Case("MSAM", method, wrapper, options=options)
        for method, wrapper, options in [
            ("ls", "plain", ()),
            ("mgda", "ddp", (("adaptive", True),)),
            ("fairgrad", "fsdp", ()),
            ("uw", "fsdp", ()),
        ]
    ),
    *(
        Case("SAMO", method, wrapper, options=tuple(HEADS.items()), apart=apart)
        for method, wrapper, apart in [
            ("mgda", "plain", False),
            ("ls", "ddp", False),
            ("fairgrad", "fsdp", False),
            ("fairgrad", "plain", True),
        ]
    ),
    Case("GSAM", "random"),
    Case("GSAM", "graddrop"),
    *(
        # Without the task missing on one rank: one process evaluates it apart, by another graph.
        Case("SAMO", "mgda", wrapper, NOBODY, options=tuple({**HEADS, **AT}.items()))
        for wrapper in WRAPPERS
    ),
]
REPRESENTATION = [
    Case(*parts, options=tuple(AT.items()))
    for parts in itertools.product(
        ["ERM", "GSAM", "MSAM"], ["ls", "mgda", "fairgrad", "upgrad"], WRAPPERS
    )
]


class Net(nn.Module):
    """A trunk of odd sizes, and heads that are evaluated only if asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh())
        self.heads = nn.ModuleDict({task: nn.Linear(5, 1) for task in TASKS})

    def forward(self, x: Tensor, tasks: Sequence[str]) -> dict[str, Tensor]:
        h = self.trunk(x)
        return {task: self.heads[task](h).squeeze(-1) for task in tasks}


def losses_of(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    tasks: Sequence[str],
    labelled: Tensor | slice = slice(None),
) -> dict[str, Tensor]:
    """Three means over a batch, the third over its labelled samples."""
    out = model(x, tasks)
    how = {
        "a": lambda o: (o - y).square().mean(),
        "b": lambda o: 3 * nn.functional.softplus(o * y).mean(),
        "c": lambda o: 0.2 * (o + 2 * y)[labelled].abs().mean() + 0.1,
    }
    return {task: how[task](out[task]) for task in tasks}


def model() -> nn.Module:
    """The model in float64, always the same."""
    torch.manual_seed(7)
    return Net().double()


def batch(step: int, size: int, *, even: bool = False) -> tuple[Tensor, Tensor]:
    """The whole batch of a step; the last one's parts are uneven."""
    generator = torch.Generator().manual_seed(100 + step)
    count = 4 * size if even or step == 0 else 4 * size - 1
    x = torch.randn(count, 4, dtype=torch.float64, generator=generator)
    return x, x.sum(1).sin()


def run(case: Case, rank: int, size: int, *, together: bool) -> dict[str, Tensor]:
    """Two steps of SGD: of one rank, or of one process that has all ranks' samples.

    Returns:
        All parameters in the end, those of the method included, with losses and Gramians.
    """
    before, Replicated.divided_from = Replicated.divided_from, case.divided_from
    try:
        return _run(case, rank, size, together=together)
    finally:
        Replicated.divided_from = before


def _run(case: Case, rank: int, size: int, *, together: bool) -> dict[str, Tensor]:
    net = model()
    wrapped = wrap(net, case.wrapper) if together else net
    options: dict[str, Any] = {} if case.preset == "ERM" else {"rho": 0.1}
    options |= copy.deepcopy(dict(case.options))
    if case.apart and together:
        options["sync_perturbation"] = False
    engine = getattr(samo, case.preset)(wrapped, TASKS, aggregator=case.method, **options)
    method = list(engine.aggregator.parameters())
    optimizer = torch.optim.SGD([*net.parameters(), *method], lr=0.1)
    found: dict[str, Tensor] = {}
    for step in range(3 if case.preset == "MSAM" else 2):
        x, y = batch(step, size, even=case.unsized)
        owner = torch.arange(size).repeat_interleave(4)[: len(x)]
        lacking = case.lacking if step == 1 else NOBODY
        closures, sizes = [], []
        parts = [torch.arange(len(x)) % case.micro == part for part in range(case.micro)]
        if case.apart and not together:
            parts = [owner == other for other in range(size)]
        for chosen in parts:
            mine = chosen & (owner == rank) if together else chosen
            closures.append(_closure(wrapped, x[mine], y[mine], owner[mine], lacking, case))
            sizes.append(
                {t: int((owner[mine] != lacking).sum() if t == "c" else mine.sum()) for t in TASKS}
            )
        optimizer.zero_grad()
        result = engine.backward(
            closures if len(parts) > 1 else closures[0],
            batch_size=None if case.unsized else sizes if len(parts) > 1 else sizes[0],
        )
        optimizer.step()
        if engine.needs_losses_after_step:
            with torch.no_grad():
                engine.optimizer_stepped(closures[0](TASKS))
            for unit in net.modules():
                if isinstance(unit, FSDPModule):
                    unit.reshard()
        found |= {f"{step}: loss {task}": loss.double() for task, loss in result.losses.items()}
        found |= {f"{step}: perturbed {t}": v for t, v in (result.perturbed_losses or {}).items()}
        if result.gramian is not None:
            found[f"{step}: gramian"] = result.gramian
    found |= {f"method {i}": parameter.detach().double() for i, parameter in enumerate(method)}
    named = [(name.replace("module.", ""), p) for name, p in net.named_parameters()]
    return found | {name: _whole(parameter) for name, parameter in named}


def _closure(net: nn.Module, x: Tensor, y: Tensor, owner: Tensor, lacking: int, case: Case) -> Any:
    labelled = owner != lacking

    def losses(tasks: Sequence[str]) -> dict[str, Tensor]:
        if labelled.all():
            return losses_of(net, x, y, tasks)
        if not labelled.any():
            if case.wrapper == "fsdp":  # every rank must evaluate every task
                return losses_of(net, x, y, tasks)
            return losses_of(net, x, y, [task for task in tasks if task != "c"])
        if ("level", "representation") in case.options:  # all tasks read the same tensor
            return losses_of(net, x, y, tasks, labelled)
        found = losses_of(net, x, y, [task for task in tasks if task != "c"])
        if "c" in tasks:
            found |= losses_of(net, x[labelled], y[labelled], ["c"])
        return {task: found[task] for task in tasks}

    return losses


def wrap(net: nn.Module, wrapper: str) -> nn.Module:
    if wrapper == "ddp":
        return DistributedDataParallel(net)
    if wrapper == "inner ddp":
        net.trunk = DistributedDataParallel(net.get_submodule("trunk"))
    if wrapper == "fsdp":
        fully_shard(net.get_submodule("trunk.0"))
        for head in net.get_submodule("heads").children():
            fully_shard(head)
        fully_shard(net)
    return net


def _whole(parameter: Tensor) -> Tensor:
    full = parameter.detach()
    whole: Tensor = full.full_tensor() if hasattr(full, "full_tensor") else full
    return whole.clone()


def run_all(rank: int, size: int, cases: Sequence[Case]) -> list[dict[str, Tensor]]:
    """The runs of one rank."""
    assert dist.get_world_size() == size
    return [run(case, rank, size, together=True) for case in cases]


def alone(case: Case, size: int) -> dict[str, Tensor]:
    """The run of a single process that has the samples of all ranks."""
    if case.wrapper == "fsdp":
        case = replace(case, wrapper="plain")
    return run(case, 0, size, together=False)
