"""The state of an engine: saved, and continued from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from samo.aggregation._state import capture, restore
from samo.engine._setting import Setting
from samo.perturbations import Stateful


def captured(
    setting: Setting, aggregator: nn.Module, configuration: Mapping[str, str]
) -> dict[str, Any]:
    """The state of an engine.

    Args:
        setting: What its steps have in common.
        aggregator: Its aggregator.
        configuration: Its options, in words.

    Returns:
        Tensors and plain values.
    """
    setting.placement.settle()
    local = None if setting.perturbation is None else setting.perturbation.local
    flat = setting.flat_combiner
    return {
        "configuration": dict(configuration),
        "parameters": _shapes(setting.model),
        "streams": setting.streams.state_dict(),
        "partition": setting.partition.state_dict(),
        "local": local.state_dict() if isinstance(local, Stateful) else {},
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
    """Brings an engine to a captured state.

    Args:
        setting: What its steps have in common.
        aggregator: Its aggregator.
        configuration: Its options, in words.
        state: The state.

    Raises:
        ValueError: If the state is of another configuration, or of a model with other parameters;
            nothing is changed then.
    """
    setting.placement.settle()
    saved = state["configuration"]
    if differing := [key for key in configuration if saved.get(key) != configuration[key]]:
        raise ValueError(
            "The state is of another configuration: "
            + "; ".join(
                f"{key} is {saved.get(key)} there and {configuration[key]} here"
                for key in differing
            )
        )
    there, here = state["parameters"], _shapes(setting.model)
    if differing := [n for n in {**there, **here} if there.get(n) != here.get(n)]:
        raise ValueError(
            "The state is of another model: "
            + "; ".join(
                f"parameter {n!r} has shape {there.get(n)} there and {here.get(n)} here"
                for n in differing
            )
        )
    restore(aggregator, state["aggregator"])
    if setting.flat_combiner is not None:
        restore(setting.flat_combiner.method, state["flat_aggregator"])
    if setting.perturbation is not None and isinstance(setting.perturbation.local, Stateful):
        setting.perturbation.local.load_state_dict(state["local"])
    for part in (setting.combiner, setting.flat_combiner):
        if part is not None:
            part.last = state["last_losses"]
    setting.streams.load_state_dict(state["streams"])
    setting.partition.load_state_dict(state["partition"])


def _shapes(model: nn.Module) -> dict[str, list[int]]:
    """The shapes of a model's parameters."""
    return {name: list(parameter.shape) for name, parameter in model.named_parameters()}
