"""The configuration of a run: defaults, checks and messages."""

from __future__ import annotations

import json
from typing import Any

import pytest

import samo
from samo import benchmarks
from samo.training import LEVELS, PRESETS, RunConfig, RunError, configured, perturbation


@pytest.mark.parametrize("name", benchmarks.available())
def test_what_is_left_out_is_the_benchmark_s_default(name: str) -> None:
    defaults = benchmarks.get(name).defaults
    config = configured(benchmark=name, sharpness="samo", epochs=None)
    for field in ("epochs", "batch_size", "lr", "weight_decay", "optimizer", "rho"):
        assert getattr(config, field) == getattr(defaults, field)
    assert configured(benchmark=name, lr=0.5).lr == 0.5
    assert configured(benchmark=name).rho is None


def test_a_configuration_survives_its_file() -> None:
    config = configured(
        benchmark="digits",
        sharpness="samo",
        sharpness_options={"alpha": 0.25, "normalization": "none"},
        method="CAGrad",
        method_options={"c": 0.2},
        level="representation",
        tasks=("left",),
        clip=1,
    )
    assert config.method == "cagrad"
    assert RunConfig(**json.loads(config.model_dump_json())) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"benchmark": "digit"}, "unknown benchmark 'digit', did you mean 'digits'?"),
        ({"method": "fairgrd"}, "no method 'fairgrd', did you mean 'fairgrad'?"),
        ({"sharpness": "smao"}, "unknown sharpness preset 'smao', did you mean 'samo'?"),
        ({"rho": 0.1}, "rho = 0.1 has no meaning for sharpness 'erm'"),
        ({"sharpness": "gsam", "rho": -1}, "rho = -1: Input should be greater than or equal to 0"),
        ({"sharpness": "gsam", "rho": float("inf")}, "rho = inf"),
        (
            {"sharpness": "gsam", "sharpness_options": {"alpha": 1}},
            "unknown option of sharpness preset 'gsam', 'alpha'",
        ),
        (
            {"sharpness": "samo", "sharpness_options": {"alpha": 1.5}},
            "alpha must be a number in [0, 1]; found 1.5",
        ),
        ({"sharpness": "samo", "sharpness_options": {"mu": 0}}, "mu must be"),
        ({"sharpness": "samo", "sharpness_options": {"mu": "x"}}, "mu"),
        ({"sharpness": "random", "sharpness_options": {"noise": "pink"}}, "noise must be"),
        ({"epochs": 0}, "epochs = 0: Input should be greater than 0"),
        ({"lr": -1.0}, "lr = -1.0: Input should be greater than 0"),
        ({"optimizer": "adan"}, "optimizer = 'adan': Input should be 'adam', 'adamw' or 'sgd'"),
        ({"level": "head"}, "level = 'head': Input should be 'parameter' or 'representation'"),
        ({"seed": -1}, "seed = -1"),
        ({"rhoo": 1}, "rhoo = 1: Extra inputs are not permitted"),
    ],
)
def test_bad_values_are_told_in_one_line(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RunError) as error:
        configured(**{"benchmark": "digits", **values})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def engine(name: str, **options: Any) -> samo.Engine:
    model = benchmarks.create("tests.toy:Toy").model()
    chosen, decompose = perturbation(name, 0.3, options)
    return samo.Engine(
        model, ["sign", "size"], aggregator="mgda", perturbation=chosen, decompose=decompose
    )


@pytest.mark.parametrize("name", [name for name in PRESETS if hasattr(samo, name.upper())])
def test_presets_are_those_of_the_library(name: str) -> None:
    model = benchmarks.create("tests.toy:Toy").model()
    rho = {} if name == "erm" else {"rho": 0.3}
    library = getattr(samo, name.upper())(model, ["sign", "size"], aggregator="mgda", **rho)
    assert repr(engine(name)) == repr(library)


@pytest.mark.parametrize("name", PRESETS)
def test_the_levels_of_a_preset_are_those_that_the_engine_accepts(name: str) -> None:
    model = benchmarks.create("tests.toy:Toy").model()
    chosen, decompose = perturbation(name, None if name == "erm" else 0.3, {})
    options: dict[str, Any] = {"perturbation": chosen, "decompose": decompose}

    def accepted(level: Any) -> bool:
        try:
            samo.Engine(model, ["sign", "size"], aggregator="mgda", level=level, **options)
        except ValueError:
            return False
        return True

    assert PRESETS[name].levels == tuple(filter(accepted, LEVELS))


def test_the_control_differs_from_samo_in_the_estimator_alone() -> None:
    samo_, random = (engine(name).perturbation for name in ("samo", "random"))
    assert isinstance(samo_, samo.Perturbation)
    assert isinstance(random, samo.Perturbation)
    assert isinstance(random.local, samo.RandomDirection)
    assert isinstance(samo_.local, samo.SPSA)
    for field in ("noise", "normalization"):
        assert getattr(random.local, field) == getattr(samo_.local, field)
    assert (random.rho, random.alpha, random.adaptive) == (samo_.rho, samo_.alpha, samo_.adaptive)


def test_every_option_of_a_preset_reaches_the_perturbation() -> None:
    other: dict[str, Any] = {
        "alpha": 0.75,
        "mu": 0.5,
        "samples": 3,
        "antithetic": False,
        "noise": "rademacher",
        "normalization": "global",
        "groups": 2,
        "every": 7,
        "share": 0.25,
        "rho_own": 0.7,
        "beta": 0.5,
        "adaptive": True,
        "decompose": True,
    }
    for name, preset in PRESETS.items():
        plain = repr(engine(name))
        for option in preset.options:
            assert repr(engine(name, **{option: other[option]})) != plain, (name, option)
