"""Saves and restores the state of an engine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from samo.aggregation import capture, restore

from ._setting import Setting, configuration


def captured(setting: Setting, aggregator: nn.Module) -> dict[str, Any]:
    """Returns the state of an engine: tensors and plain values."""
    setting.world.placement.settle()
    ascending, flat = setting.ascending, setting.flat_combiner
    local = None if ascending is None else ascending.local
    return {
        "configuration": dict(configuration(setting, aggregator)),
        "rho": None if setting.perturbation is None else setting.perturbation.rho,
        "parameters": _shapes(setting.traced.model),
        "streams": setting.world.streams.state_dict(),
        "partition": setting.partition.state_dict(),
        "local": {} if local is None else local.state_dict(),
        "mean": {} if setting.mean is None else setting.mean.state_dict(),
        "aggregator": capture(aggregator),
        "flat_aggregator": None if flat is None else capture(flat.method),
        "last_losses": setting.combiner.last,
    }


def restored(setting: Setting, aggregator: nn.Module, state: Mapping[str, Any]) -> Setting:
    """Restores a captured state of an engine.

    Args:
        setting: Its setting.
        aggregator: Its aggregator.
        state: The state.

    Returns:
        The setting, with the radius ρ of the state.

    Raises:
        ValueError: If the state belongs to another configuration, or to a model with other
            parameters. The engine is then unchanged.
    """
    setting.world.placement.settle()
    if setting.perturbation is not None and state["rho"] is not None:
        setting = setting.with_rho(state["rho"])
    saved, own = state["configuration"], configuration(setting, aggregator)
    if differing := [key for key in own if saved.get(key) != own[key]]:
        raise ValueError(
            "The state has another configuration: "
            + "; ".join(
                f"{key} is {saved.get(key)} in the state and {own[key]} in the engine"
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
    if setting.ascending is not None and setting.ascending.local is not None:
        setting.ascending.local.load_state_dict(state["local"])
    if setting.mean is not None:
        setting.mean.load_state_dict(state["mean"])
    for part in (setting.combiner, setting.flat_combiner):
        if part is not None:
            part.last = state["last_losses"]
    setting.world.streams.load_state_dict(state["streams"])
    setting.partition.load_state_dict(state["partition"])
    return setting


def _shapes(model: nn.Module) -> dict[str, list[int]]:
    """Returns the shapes of a model's parameters."""
    return {name: list(parameter.shape) for name, parameter in model.named_parameters()}
