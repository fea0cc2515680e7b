"""Every method of the table: what `create` gives is what the table says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchjd.aggregation
import torchjd.scalarization
from torch import Tensor
from torchjd.aggregation import GramianWeightedAggregator
from torchjd.scalarization import Scalarizer

import samo
from samo import aggregation

BASES = {"Aggregator", "GramianWeightedAggregator", "Scalarizer", "WeightedAggregator", "Weighting"}
NAMES = aggregation.available()


def required(name: str, n_tasks: int) -> dict[str, Any]:
    """The options that a method does not work without."""
    return {"weights": [1.0] * n_tasks} if name == "constant" else {}


def make(name: str, n_tasks: int, **options: Any) -> Any:
    return aggregation.create(name, n_tasks, **required(name, n_tasks), **options)


def call(method: Any, n_tasks: int) -> Tensor:
    """What a method makes of random losses or gradients: in both cases a vector."""
    if not isinstance(method, Scalarizer):
        result: Tensor = method(torch.randn(n_tasks, 7, dtype=torch.float64))
        return result
    losses = (torch.rand(n_tasks) + 0.1).requires_grad_()
    (weights,) = torch.autograd.grad(method(losses), losses)
    return weights


@pytest.mark.parametrize("n_tasks", [1, 2, 3, 5])
@pytest.mark.parametrize("name", NAMES)
def test_every_method_works(name: str, n_tasks: int) -> None:
    fewest = aggregation.describe(name).min_tasks
    assert fewest == {"krum": 3, "trimmed-mean": 3}.get(name, 1)
    if n_tasks < fewest:
        message = f"'{name}': it needs at least {fewest} tasks; found n_tasks={n_tasks}"
        with pytest.raises(ValueError, match=message):
            make(name, n_tasks)
        return
    method = make(name, n_tasks)
    results = torch.stack([call(method, n_tasks) for _ in range(3)])
    assert results.isfinite().all()
    assert results.abs().sum() > 0


@pytest.mark.parametrize("name", NAMES)
def test_levels_are_those_that_the_engine_accepts(name: str) -> None:
    levels, method = aggregation.describe(name).levels, make(name, 3)
    net, tasks = torch.nn.Linear(1, 1), ["a", "b", "c"]
    if "representation" in levels or not levels:
        samo.GSAM(net, tasks, aggregator=method, rho_own=0.0, level="representation")
        return
    with pytest.raises(ValueError, match="relates them to other batches"):
        samo.GSAM(net, tasks, aggregator=method, rho_own=0.0, level="representation")


@pytest.mark.parametrize("name", NAMES)
def test_needs(name: str) -> None:
    method, needs = make(name, 3), aggregation.describe(name).needs
    assert isinstance(method, Scalarizer) == (needs in ("nothing", "losses", "sharpness"))
    assert isinstance(method, GramianWeightedAggregator) == (needs == "gramian")
    if isinstance(method, Scalarizer):
        weights: list[Tensor] = []
        for losses in ([1.0, 2.0, 3.0], [3.0, 0.5, 1.0]):
            torch.manual_seed(0)
            values = torch.tensor(losses, requires_grad=True)
            weights += torch.autograd.grad(method(values), values)
        # uw, imtl-l and dwa weigh by their own parameters or by earlier losses, not by these.
        same = needs in ("nothing", "sharpness") or name in ("uw", "imtl-l", "dwa")
        assert torch.equal(*weights) == same


@pytest.mark.parametrize("package", [torchjd.aggregation, torchjd.scalarization])
def test_everything_in_torchjd_has_a_name(package: Any) -> None:
    exported = set(package.__all__) - BASES
    kinds = {aggregation.describe(name).kind.__name__ for name in NAMES}
    without = {
        name
        for name in exported - kinds
        # A weighting is reached through the aggregator that it belongs to.
        if name.removesuffix("Weighting") not in exported & kinds
    }
    assert not without


@pytest.mark.parametrize(
    ("alias", "name"),
    [
        ("sum", "ls"),
        ("random", "rlw"),
        ("geometric-mean", "gls"),
        ("Geometric_Mean", "gls"),
        ("FairGrad", "fairgrad"),
        ("Nash_MTL", "nash-mtl"),
        ("IMTL_L", "imtl-l"),
    ],
)
def test_look_up(alias: str, name: str) -> None:
    assert aggregation.describe(alias).name == name


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("fairgrad", {"alpha": 2.0}),
        ("cagrad", {"c": 0.4}),
        ("dwa", {"temperature": 2.0}),
        ("famo", {"lr": 0.025, "weight_decay": 1e-3}),
        ("pbi", {"theta": 5.0}),
        ("trimmed-mean", {"trim_number": 1}),
        ("nash-mtl", {"max_norm": 1.0}),
    ],
)
def test_published_defaults(name: str, defaults: dict[str, Any]) -> None:
    known = aggregation.describe(name).defaults
    assert {option: known[option] for option in defaults} == defaults
    method = make(name, 3)
    assert {option: getattr(method, option) for option in defaults} == defaults


@pytest.mark.parametrize("name", NAMES)
def test_numeric_options_arrive(name: str) -> None:
    for option, default in aggregation.describe(name).defaults.items():
        if isinstance(default, int | float):
            value = default + 1 if isinstance(default, int) else default / 2
            method = make(name, 5, **{option: value})
            assert value in [getattr(part, option, None) for part in method.modules()], option


@pytest.mark.parametrize("name", NAMES)
def test_defaults_given_are_defaults_left_out(name: str) -> None:
    defaults = aggregation.describe(name).defaults
    assert repr(make(name, 3, **defaults)) == repr(make(name, 3))


def test_lists_become_tensors() -> None:
    method = make("upgrad", 3, pref_vector=(0.5, 0.25, 0.25))
    assert torch.equal(method.pref_vector, torch.tensor([0.5, 0.25, 0.25]))
    tau = make("pcd", 3, tau=[0.1, 0.2]).tau
    assert torch.equal(tau, torch.tensor([0.1, 0.2]))


def test_weights_are_equal_where_none_are_given() -> None:
    for name in ("pbi", "cosmos"):
        assert torch.equal(make(name, 4).weights, torch.full((4,), 0.25))


@pytest.mark.parametrize(
    ("error", "message", "name", "options"),
    [
        (ValueError, "no method 'fairgrd', did you mean 'fairgrad'.* ls, mean", "fairgrd", {}),
        (ValueError, r"no method 'xyzzy'\. The methods are ls, mean", "xyzzy", {}),
        (TypeError, "'cagrad': unknown option 'd'; it takes c", "cagrad", {"d": 1}),
        (TypeError, "'pcgrad': unknown option 'd'; it takes none", "pcgrad", {"d": 1}),
        (TypeError, "'constant': missing option 'weights'", "constant", {}),
        (ValueError, r"'cagrad': c must be in \[0, inf\); found -1", "cagrad", {"c": -1}),
        (TypeError, "'fairgrad': alpha must be a number", "fairgrad", {"alpha": "small"}),
        (
            ValueError,
            "'constant': weights must have 3 .* shape .2,",
            "constant",
            {"weights": [1, 2]},
        ),
        (ValueError, "'pcd': tau must have 2 values for 3 tasks", "pcd", {"tau": [0.1] * 3}),
        (ValueError, "'krum': it needs at least 5 tasks; .*=3", "krum", {"n_byzantine": 2}),
        (ValueError, "'trimmed-mean': it needs at least 5", "trimmed-mean", {"trim_number": 2}),
        (ValueError, "'cr-mogm': base must be .*'mgda'.* found Sum", "cr-mogm", {"base": "ls"}),
        (ValueError, "'cr-mogm': There is no method 'x'", "cr-mogm", {"base": "x"}),
    ],
)
def test_errors(error: type[Exception], message: str, name: str, options: dict[str, Any]) -> None:
    with pytest.raises(error, match=message):
        aggregation.create(name, 3, **options)


@pytest.mark.parametrize("name", ["upgrad", "dualproj"])
def test_a_missing_package_is_named_with_its_remedy(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torchjd._mixins.find_spec", lambda package: None)
    with pytest.raises(ImportError, match=rf"'{name}' .* pip install \"torch-samo\[train\]\""):
        aggregation.create(name, 3, projector=None)  # TorchJD's own, which needs quadprog


@pytest.mark.parametrize("name", NAMES)
def test_a_created_method_is_recognised(name: str) -> None:
    found = aggregation.method_of(make(name, 3))
    assert found is not None
    assert found.name == name
    assert set(aggregation.describe(name).references) <= set(found.references)


def test_a_method_made_otherwise_is_recognised() -> None:
    class Mine(torchjd.aggregation.UPGrad):
        pass

    class Unknown(Scalarizer):
        def forward(self, values: Tensor, /) -> Tensor:
            return values.sum()

    found: dict[str, list[Any]] = {
        "upgrad": [torchjd.aggregation.UPGradWeighting(), Mine()],
        "ls": [torchjd.aggregation.Sum(), torchjd.scalarization.Sum()],
        "nash-mtl": [torchjd.aggregation.NashMTL(2)],
        "fairgrad": [aggregation.FairGradWeighting(), torchjd.aggregation.FairGrad(2.0)],
        "modo": [torchjd.aggregation.MoDoWeighting()],
    }
    for name, objects in found.items():
        for item in objects:
            method = aggregation.method_of(item)
            assert method is not None
            assert method.name == name
    assert aggregation.method_of(Unknown()) is None


def test_smoothing_cites_the_method_that_it_smooths() -> None:
    found = aggregation.method_of(aggregation.create("cr-mogm", 2, base="cagrad"))
    assert found is not None
    assert found.references == ("zhou2022crmogm", "liu2021cagrad")
