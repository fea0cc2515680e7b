"""State: same seed, same run, bit for bit, also across a checkpoint; citations; representations."""

from __future__ import annotations

import io
import re
from collections import OrderedDict
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn
from torchjd.aggregation import UPGrad, UPGradWeighting

import samo
from samo import aggregation
from tests.problems import TASKS, problem
from tests.tools import Heads, gradients, same

PERTURBATIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "erm": (samo.ERM, {}),
    "gsam": (samo.GSAM, {}),
    "msam": (samo.MSAM, {}),
    "heads": (samo.GSAM, {"rho": 0.0, "rho_own": 0.05}),
    "lsam": (samo.LSAM, {}),
    "fmtl": (samo.FMTL, {}),
    "samo": (samo.SAMO, {}),
    "random": (samo.SAMO, {"local": samo.RandomDirection()}),
    "previous": (samo.SAMO, {"local": samo.PreviousGradient()}),
    "decomposed": (samo.SAMO, {"local": samo.PreviousGradient(), "decompose": True}),
    "shared only": (samo.GSAM, {"rho_own": 0.0}),
}
OPTIONS = {"constant": {"weights": [1.0, 2.0, 3.0]}}


class Run:
    """A training run of a few steps; task b is absent from two, if the method can do so."""

    def __init__(self, perturbation: str, aggregator: str, model: str = "dropout", **options: Any):
        preset, settings = PERTURBATIONS[perturbation]
        self.case = problem(model)
        method = aggregation.create(aggregator, len(TASKS), **OPTIONS.get(aggregator, {}))
        self.engine = preset(self.case.model, TASKS, aggregator=method, **settings, **options)
        parameters = [*self.case.model.parameters(), *self.engine.aggregator.parameters()]
        self.optimizer = torch.optim.Adam(parameters, lr=0.02)
        self.steps = 0
        self.late = {"b"} if aggregation.describe(aggregator).min_tasks <= 2 else set()

    def losses(self, tasks):
        present = [task for task in tasks if self.steps > 1 or task not in self.late]
        return self.case.losses(self.case.model, present)

    def go(self, steps):
        """Runs on, and returns all parameters and weights on the way."""
        trajectory: dict[Any, Any] = {}
        for _ in range(steps):
            self.optimizer.zero_grad()
            result = self.engine.backward(self.losses)
            self.optimizer.step()
            with torch.no_grad():
                self.engine.optimizer_stepped(self.losses(TASKS))
            self.steps += 1
            if self.steps % 2 == 0:
                self.engine.epoch_ended()
            trajectory[self.steps, "weights"] = result.weights
            for name, value in self.case.model.state_dict().items():
                trajectory[self.steps, name] = value.clone()
        return trajectory

    def save(self):
        file = io.BytesIO()
        parts = {name: getattr(self, name).state_dict() for name in ("engine", "optimizer")}
        torch.save(
            parts
            | {"model": self.case.model.state_dict(), "rng": torch.get_rng_state()}
            | {"steps": self.steps},
            file,
        )
        return file.getvalue()

    def load(self, saved):
        state = torch.load(io.BytesIO(saved), weights_only=True)
        self.case.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.engine.load_state_dict(state["engine"])
        torch.set_rng_state(state["rng"])
        self.steps = state["steps"]
        return self


# Methods that keep something or draw random numbers.
STATEFUL = [name for name in aggregation.available() if aggregation.describe(name).stateful]
STATEFUL += ["uw", "imtl-l", "rlw", "pcgrad", "graddrop"]
CASES = [(p, "pcgrad") for p in PERTURBATIONS] + [("erm", "ls"), ("samo", "ls")]
CASES += [("samo", a) for a in ("uw", "famo", "dwa", "gradvac", "graddrop")]
CASES += [
    ("shared only" if aggregation.describe(name).needs == "sharpness" else "decomposed", name)
    for name in STATEFUL
]


@pytest.mark.parametrize(("perturbation", "aggregator"), dict.fromkeys(CASES))
def test_continues_bit_for_bit(perturbation, aggregator):
    """From a file, into fresh objects of another seed, at the start or after any step."""
    torch.manual_seed(0)
    straight = Run(perturbation, aggregator)
    saved = [straight.save()]
    whole: dict[Any, Any] = {}
    for _ in range(4):
        whole |= straight.go(1)
        saved.append(straight.save())
    for at in (0, 1, 3) if aggregator == "pcgrad" else (1,):
        torch.manual_seed(99)
        resumed = Run(perturbation, aggregator, seed=5).load(saved[at])
        same(resumed.go(4 - at), {k: v for k, v in whole.items() if k[0] > at})


@pytest.mark.parametrize("perturbation", PERTURBATIONS)
def test_seed(perturbation):
    """The same seed gives the same run; another gives another where numbers are drawn."""
    runs = []
    for seed in (0, 0, 1):
        torch.manual_seed(4)
        runs.append(Run(perturbation, "gls", seed=seed).go(2))
    same(runs[0], runs[1])
    draws = perturbation in ("samo", "random")
    assert draws != all(torch.equal(runs[0][k], runs[2][k]) for k in runs[0])


@pytest.mark.parametrize("aggregator", ["rlw", "pcgrad", "graddrop", "gradvac", "modo"])
def test_random_aggregators_draw_from_the_engine(aggregator):
    """They draw from the engine's seed, whatever the global generators are; SPSA as well."""
    seen = []
    for seed, outside in ((0, 1), (0, 2), (1, 1)):
        run = Run("samo", aggregator, model="plain", seed=seed)
        torch.manual_seed(outside)
        before = torch.get_rng_state()
        seen.append(run.go(3))
        assert torch.equal(torch.get_rng_state(), before)
    same(seen[0], seen[1])
    assert not all(torch.equal(seen[0][k], seen[2][k]) for k in seen[0] if k[1] != "weights")


def test_state_is_a_copy():
    """Going on does not change a state that was taken."""
    for perturbation, aggregator in (
        ("previous", "uw"),
        ("samo", "gradvac"),
        ("erm", "excess-mtl"),
    ):
        run = Run(perturbation, aggregator)
        run.go(2)
        saved, state = run.save(), run.engine.state_dict()
        run.go(2)
        file = io.BytesIO()
        torch.save(state, file)
        now = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
        assert repr(now) == repr(torch.load(io.BytesIO(saved), weights_only=True)["engine"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"aggregator": "mgda"}, "aggregator is "),
        (
            {"tasks": ["a", "b"]},
            r"tasks is \['a', 'b', 'c'\] in the state and \['a', 'b'\] in the engine",
        ),
        ({"alpha": 0.2}, "perturbation is .*alpha=0.5.* in the state and .*alpha=0.2.* in"),
        ({"local": samo.SPSA(mu=0.1)}, "SPSA"),
        ({"decompose": True}, "decompose is False in the state and True in the engine"),
        (
            {"width": 7},
            r"another model: parameter 'trunk.0.weight' .*\[6, 4\] in the state.*\[7, 4\] here",
        ),
        ({"width": 6, "name": "z"}, r"'trunk.0.weight' has shape \[6, 4\] in the state, None here"),
    ],
)
def test_a_state_of_another_configuration_changes_nothing(change, message):
    """It is refused with what differs, and the engine goes on as if nothing had been tried."""
    x = torch.randn(5, 4)

    def made(aggregator="famo", tasks=("a", "b", "c"), width=6, name="0", **options):
        trunk = nn.Sequential(OrderedDict({name: nn.Linear(4, width), "tanh": nn.Tanh()}))
        model = Heads(trunk, width, tasks)
        options = {"local": samo.PreviousGradient()} | options
        engine = samo.SAMO(model, tasks, aggregator=aggregator, **options)
        losses = partial(model.losses, x=x)
        engine.backward(losses)
        return engine, losses

    state = made()[0].state_dict()
    engine, losses = made(**change)
    before = repr(engine.state_dict())
    with pytest.raises(ValueError, match=message):
        engine.load_state_dict(state)
    assert repr(engine.state_dict()) == before
    assert engine.backward(losses).losses.keys() == set(engine.tasks)


def cited(engine):
    text = engine.citation()
    keys = re.findall(r"^@\w+\{([^,]+),$", text, re.MULTILINE)
    entries = re.split(r"\n\n", text.strip())
    assert len(entries) == len(keys) == len(set(keys))
    for entry in entries:  # BibTeX: balanced braces, named fields
        assert entry.count("{") == entry.count("}")
        assert re.fullmatch(r"@\w+\{\S+,\n(  \w+ += \{.*\},?\n)+\}", entry)
    return keys


FIRST, LAST = ["ban2025samo", "foret2021sam"], "quinton2024jacobian"


@pytest.mark.parametrize(
    ("perturbation", "aggregator", "keys"),
    [
        ("erm", "ls", [LAST]),
        ("erm", "fairgrad", ["ban2024fairgrad", LAST]),
        ("erm", "upgrad", [LAST]),
        ("gsam", "mgda", [*FIRST, "desideri2012mgda", "sener2018mgda", LAST]),
        ("lsam", "uw", [*FIRST, "kendall2018uw", LAST]),
        ("fmtl", "cagrad", [*FIRST, "phan2022fmtl", "liu2021cagrad", LAST]),
        ("samo", "fairgrad", [*FIRST, "spall1992spsa", "ban2024fairgrad", LAST]),
        ("previous", "mean", [*FIRST, LAST]),
    ],
)
def test_citation(perturbation, aggregator, keys):
    """The entries of what is in use, and of nothing else."""
    assert cited(Run(perturbation, aggregator).engine) == keys


def test_citation_of_objects_and_options():
    """TorchJD objects are recognised; ASAM is cited where it is used, SPSA where α is not 1."""
    model = Heads()

    def keys(**options):
        return cited(samo.SAMO(model, TASKS, **options))

    assert keys(aggregator=UPGrad()) == keys(aggregator=UPGradWeighting())
    adaptive = keys(aggregator="ls", adaptive=True)
    assert adaptive == [*FIRST, "kwon2021asam", "spall1992spsa", LAST]
    assert keys(aggregator="ls", alpha=1.0) == [*FIRST, LAST]


@pytest.mark.parametrize(
    "thing",
    [
        samo.SPSA(0.3, 2, antithetic=False, noise="rademacher", normalization="none"),
        samo.ExactGradient(),
        samo.RandomDirection("rademacher", "global"),
        samo.Perturbation(0.1, alpha=0.2, local=samo.RandomDirection(), adaptive=True),
    ],
)
def test_repr_reconstructs(thing):
    """What repr prints can be evaluated to an equal object."""
    assert eval(repr(thing), dict(vars(samo))) == thing


def test_repr_of_an_engine():
    """It names what makes the engine, and no address in memory."""
    engine = samo.SAMO(
        Heads(), TASKS, aggregator="fairgrad", rho=0.07, where=lambda name, parameter: True
    )
    text = repr(engine)
    for part in ("'a', 'b', 'c'", "FairGrad(alpha=2.0", "rho=0.07", "SPSA(mu=0.01", "decompose"):
        assert part in text
    assert "0x" not in text


def test_loading_before_the_first_step_keeps_what_was_known():
    """An engine that has not stepped yet takes over a partition that it cannot see in its batch."""
    run = Run("lsam", "mgda")
    run.go(2)
    fresh = Run("lsam", "mgda").load(run.save())
    fresh.steps = 0  # the next batch lacks task b
    run.steps = 0
    for which in (run, fresh):
        torch.manual_seed(3)
        which.optimizer.zero_grad()
        which.engine.backward(which.losses)
    same(gradients(run.case.model), gradients(fresh.case.model))
