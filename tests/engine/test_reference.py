"""The engine equals the naive step of tests/reference.py, on models x presets x aggregators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torchjd.aggregation as agg
import torchjd.scalarization as sca
from torch import Tensor

import samo
from tests import reference
from tests.problems import MODELS, TASKS, problem
from tests.tools import in_pairs

RHO = 0.1

# What the engine gets; the reference gets a fresh one.
AGGREGATORS: dict[str, Callable[[], Any]] = {
    "ls": sca.Sum,
    "gls": sca.GeometricMean,
    "stch": lambda: sca.STCH(0.3),
    "uw": lambda: sca.UW(len(TASKS)),
    "mean_aggregator": agg.Mean,
    "mgda": agg.MGDA,
    "upgrad": agg.UPGrad,
    "fairgrad": lambda: agg.FairGrad(2.0),
    "cagrad": lambda: agg.CAGrad(0.4),
    "imtl_g": agg.IMTLG,
    "config": agg.ConFIG,
    "trimmed_mean": lambda: agg.TrimmedMean(1),
}

# Options of samo.Perturbation (or of another kind, and decompose), and the reference's arguments.
Variant = tuple[dict[str, Any] | None, dict[str, Any]]
EXACT = {"alpha": 0.0, "local": samo.ExactGradient()}
PRESETS: dict[str, Variant] = {
    "erm": (None, {}),
    "gsam": ({"alpha": 1.0}, {"alpha": 1.0}),
    "lsam": (EXACT, {"alpha": 0.0}),
    "fmtl": ({**EXACT, "decompose": True}, {"alpha": 0.0, "decompose": True}),
    "samo": ({}, {"estimate": "spsa"}),
    "msam": ({"kind": samo.Momentum, "beta": 0.8}, {}),
    "heads": ({"rho": 0.0, "rho_own": RHO}, {"rho": 0.0, "rho_own": RHO}),
}
VARIANTS: dict[str, Variant] = {
    "adaptive_samo": ({"adaptive": True}, {"estimate": "spsa", "adaptive": True}),
    "adaptive_gsam": ({"alpha": 1.0, "adaptive": True}, {"alpha": 1.0, "adaptive": True}),
    "one_sided": (
        {"local": samo.SPSA(antithetic=False)},
        {"estimate": "spsa", "antithetic": False},
    ),
    "three_samples_global": (
        {"local": samo.SPSA(mu=0.05, samples=3, normalization="global")},
        {"estimate": "spsa", "samples": 3, "mu": 0.05, "normalization": "global"},
    ),
    "unnormalised_alpha_0": (
        {"alpha": 0.0, "local": samo.SPSA(normalization="none")},
        {"alpha": 0.0, "estimate": "spsa", "normalization": "none"},
    ),
    "rademacher": (
        {"alpha": 0.2, "local": samo.SPSA(noise="rademacher")},
        {"alpha": 0.2, "estimate": "spsa"},
    ),
    "random": ({"local": samo.RandomDirection()}, {"estimate": "random"}),
    "previous_first": ({"local": samo.PreviousGradient()}, {"estimate": "previous"}),
    "exact_alpha_half": ({"local": samo.ExactGradient()}, {"estimate": "exact"}),
    "decomposed_samo": ({"decompose": True}, {"estimate": "spsa", "decompose": True}),
    "decomposed_gsam": ({"alpha": 1.0, "decompose": True}, {"alpha": 1.0, "decompose": True}),
    "weights_only": (
        {"where": lambda name, _: name.endswith("weight")},
        {"estimate": "spsa"},
    ),
    "adaptive_msam": ({"kind": samo.Momentum, "adaptive": True}, {"adaptive": True}),
    "masked_msam": ({"kind": samo.Momentum, "where": lambda _, p: p > 0}, {}),
    "weights_msam": ({"kind": samo.Momentum, "where": lambda name, _: name.endswith("weight")}, {}),
    "adaptive_heads": (
        {"rho": 0.0, "rho_own": RHO, "adaptive": True},
        {"rho": 0.0, "rho_own": RHO, "adaptive": True},
    ),
    "decomposed_heads": (
        {"rho": 0.0, "rho_own": RHO, "decompose": True},
        {"rho": 0.0, "rho_own": RHO, "decompose": True},
    ),
    "shared_only": ({"rho_own": 0.0}, {"rho_own": 0.0, "estimate": "spsa"}),
    "wider_heads": ({**EXACT, "rho_own": 3 * RHO}, {"alpha": 0.0, "rho_own": 3 * RHO}),
    "masked_exact": (
        {"alpha": 0.3, "local": samo.ExactGradient(), "where": lambda _, p: p > 0},
        {"alpha": 0.3},
    ),
}


def noise(sizes: dict[str, int], drawn: set[str], kind: str) -> Iterator[Tensor]:
    """What an engine of seed 0 draws: numbers for the parameters that it perturbs, in order."""
    generator = torch.Generator().manual_seed(0)
    while True:
        z = torch.empty(sum(sizes[n] for n in sizes if n in drawn), dtype=torch.float64)
        if kind == "gaussian":
            z.normal_(generator=generator)
        else:  # a bit each, of words of 64
            words = torch.empty(-(-len(z) // 64), dtype=torch.int64)
            words.random_(-(2**63), None, generator=generator)
            bits = [word >> place & 1 for word in words.tolist() for place in range(64)]
            z = torch.tensor(bits[: len(z)], dtype=torch.float64) * 2 - 1
        parts = iter(z.split([sizes[n] for n in sizes if n in drawn]))
        yield torch.cat([next(parts) if n in drawn else z.new_zeros(sizes[n]) for n in sizes])


def weighing(
    make: Callable[[], Any],
) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """How the reference aggregates, and how it weighs the tasks' own gradients."""

    def weights(losses: Tensor) -> Tensor:
        leaf = losses.clone().requires_grad_()
        return torch.autograd.grad(make()(leaf), leaf)[0]

    if isinstance(make(), sca.Scalarizer):
        return lambda matrix, losses: weights(losses) @ matrix, weights
    return lambda matrix, losses: make()(matrix), torch.ones_like


def check(model: str, aggregator: str, variant: Variant, *, declared: bool = False) -> None:
    """One step of the engine against one of the reference; along past gradients, two steps."""
    case = problem(model)
    named = dict(case.model.named_parameters())
    options = {"rho": RHO, **(variant[0] or {})}
    kind, decompose = options.pop("kind", samo.Perturbation), options.pop("decompose", False)
    asked = options.get("where", lambda *_: True)
    masks = {n: asked(n, p) for n, p in named.items()}
    draws = noise(
        {n: named[n].numel() for n in case.shared},
        {n for n, mask in masks.items() if mask is not False},
        getattr(options.get("local"), "noise", "gaussian"),
    )
    aggregate, weigh_own = weighing(AGGREGATORS[aggregator])
    parts: dict[str, Any] = {}
    if declared:
        own = {task: [named[n] for n in names] for task, names in case.own.items()}
        parts = {"shared": [named[n] for n in case.shared], "own": own}
    engine = samo.Engine(
        case.model,
        case.tasks,
        aggregator=AGGREGATORS[aggregator](),
        perturbation=None if variant[0] is None else kind(**options),
        decompose=decompose,
        **parts,
    )
    velocity: dict[str, Tensor] | None = None
    if kind is samo.Momentum:
        velocity = {n: torch.zeros_like(p) for n, p in named.items()}
    for seed in (3,) if velocity is None else (3, 4):
        torch.manual_seed(seed)
        arguments = {"rho": 0.0 if variant[0] is None else RHO, **variant[1]}
        want, matrix = reference.step(
            case,
            aggregate,
            weigh_own,
            noise=draws,
            where=masks.__getitem__,
            velocity=velocity,
            **arguments,
        )
        torch.manual_seed(seed)
        case.model.zero_grad()
        result = engine.backward(lambda tasks: case.losses(case.model, tasks))
        assert {n for n, p in named.items() if p.grad is not None} == want.keys()
        found = {n: named[n].grad for n in want}
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)
        if result.gramian is not None and not decompose:
            torch.testing.assert_close(result.gramian, matrix @ matrix.T, rtol=1e-10, atol=1e-10)
        if velocity is not None:
            beta = options.get("beta", 0.9)
            velocity = {n: beta * velocity[n] + (1 - beta) * g for n, g in want.items()}
            assert result.perturbed_losses is None


# A step meets the model and the perturbation in its evaluations, the aggregator only in the rows
# and losses that these lead to. So the fast tests hold any two of the three together; the slow one
# holds all three.


@pytest.mark.parametrize(("model", "aggregator", "preset"), in_pairs(MODELS, AGGREGATORS, PRESETS))
def test_presets(model, aggregator, preset):
    """Every pair of model, aggregator and preset."""
    check(model, aggregator, PRESETS[preset])


@pytest.mark.parametrize(
    ("model", "preset", "aggregator"), in_pairs(MODELS, PRESETS, ["gls", "fairgrad", "config"])
)
def test_declared_partition(model, preset, aggregator):
    """The same with the partition declared, and an aggregator of each kind."""
    check(model, aggregator, PRESETS[preset], declared=True)


@pytest.mark.parametrize(
    ("model", "variant", "aggregator"), in_pairs(MODELS, VARIANTS, ["gls", "config"])
)
def test_variants(model, variant, aggregator):
    """Every model with every option of the perturbation and its estimators."""
    check(model, aggregator, VARIANTS[variant])


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("model", MODELS)
def test_every_triple(model, preset):
    """Every model with every preset and every aggregator at once."""
    for aggregator in AGGREGATORS:
        check(model, aggregator, PRESETS[preset])
    for aggregator in ("gls", "fairgrad", "config"):
        check(model, aggregator, PRESETS[preset], declared=True)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model", MODELS)
def test_every_triple_of_variants(model, variant):
    """Every model with every option, with an aggregator of each kind."""
    for aggregator in ("gls", "config"):
        check(model, aggregator, VARIANTS[variant])


def test_previous_gradient_second_step():
    """At the second step, the estimate is the first one's task gradients."""
    case = problem("plain")
    aggregate, weigh_own = weighing(sca.Sum)
    _, first = reference.step(case, aggregate, weigh_own, rho=RHO, estimate="previous")
    want, _ = reference.step(
        case, aggregate, weigh_own, rho=RHO, estimate="previous", previous=list(first)
    )
    engine = samo.SAMO(
        case.model, case.tasks, aggregator="ls", rho=RHO, local=samo.PreviousGradient()
    )
    for _ in range(2):
        case.model.zero_grad()
        engine.backward(lambda tasks: case.losses(case.model, tasks))
    found = {n: p.grad for n, p in case.model.named_parameters()}
    torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-10)
