"""Saves and restores the state of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from samo.aggregation import capture, restore

from ._setting import Setting


def captured(
    setting: Setting, aggregator: nn.Module, configuration: Mapping[str, str]
) -> dict[str, Any]:
    """Returns the state of an engine: tensors and plain values."""
    setting.world.placement.settle()
    perturbation, flat = setting.perturbation, setting.flat_combiner
    local = None if perturbation is None else perturbation.local
    return {
        "configuration": dict(configuration),
        "parameters": _shapes(setting.traced.model),
        "streams": setting.world.streams.state_dict(),
        "partition": setting.partition.state_dict(),
        "local": {} if local is None else local.state_dict(),
        "aggregator": capture(aggregator),
        "flat_aggregator": None if flat is None else capture(flat.method),
        "last_losses": setting.combiner.last,
    }


def restored(
    setting: Setting,
    aggregator: nn.Module,
    configuration: Mapping[str, str],
    state: Mapping[str, Any],
) -> None:
    """Restores a captured state of an engine.

    Args:
        setting: Its setting.
        aggregator: Its aggregator.
        configuration: Its options.
        state: The state.

    Raises:
        ValueError: If the state belongs to another configuration, or to a model with other
            parameters. The engine is then unchanged.
    """
    setting.world.placement.settle()
    saved = state["configuration"]
    if differing := [key for key in configuration if saved.get(key) != configuration[key]]:
        raise ValueError(
            "The state has another configuration: "
            + "; ".join(
                f"{key} is {saved.get(key)} in the state and {configuration[key]} in the engine"
                for key in differing
            )
        )
    there, here = state["parameters"], _shapes(setting.traced.model)
    if differing := [n for n in {**there, **here} if there.get(n) != here.get(n)]:
        raise ValueError(
            "The state belongs to another model: "
            + "; ".join(
                f"parameter {n!r} has shape {there.get(n)} in the state, {here.get(n)} here"
                for n in differing
            )
        )
    restore(aggregator, state["aggregator"])
    if setting.flat_combiner is not None:
        restore(setting.flat_combiner.method, state["flat_aggregator"])
    if setting.perturbation is not None and setting.perturbation.local is not None:
        setting.perturbation.local.load_state_dict(state["local"])
    for part in (setting.combiner, setting.flat_combiner):
        if part is not None:
            part.last = state["last_losses"]
    setting.world.streams.load_state_dict(state["streams"])
    setting.partition.load_state_dict(state["partition"])


def _shapes(model: nn.Module) -> dict[str, list[int]]:
    """Returns the shapes of a model's parameters."""
    return {name: list(parameter.shape) for name, parameter in model.named_parameters()}
