"""Several processes take the step that one process takes with the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

import samo
from tests.distributed.cases import (
    MATRIX,
    PRESETS,
    REPRESENTATION,
    TASKS,
    VARIANTS,
    Case,
    alone,
    batch,
    losses_of,
    model,
    run_all,
)
from tests.distributed.processes import all_well, on_ranks

TOLERANCE = 1e-9


def check(cases: Sequence[Case], size: int) -> None:
    """Every rank's parameters, losses and Gramians are those of a single process."""
    results = all_well(on_ranks(size, run_all, list(cases)))
    for number, case in enumerate(cases):
        want = alone(case, size)
        for rank in range(size):
            found = results[rank][number]
            assert found.keys() == want.keys(), case
            for name, value in want.items():
                torch.testing.assert_close(
                    found[name],
                    value.double(),
                    rtol=TOLERANCE,
                    atol=TOLERANCE,
                    msg=f"{case}, rank {rank}, {name}: {found[name]} is not {value}",
                )
        for rank in range(1, size):  # and no rank drifts away from another
            for name, value in results[0][number].items():
                assert torch.equal(results[rank][number][name], value), (case, name)


def test_two_ranks():
    """A part of the matrix, and what is not in it."""
    check(MATRIX[::7] + VARIANTS + REPRESENTATION[::2], 2)


def test_three_ranks():
    """Another part."""
    check(MATRIX[1::7] + REPRESENTATION[1::5], 3)


def test_a_group_that_is_initialised_after_the_engine_was_made():
    """Its ranks are the engine's from the first step on (Lightning makes its modules before)."""
    net, (x, y) = model(), batch(0, 2)
    engine = samo.SAMO(net, TASKS, aggregator="fairgrad")
    dist.init_process_group("fake", rank=1, world_size=4, store=FakeStore())
    try:
        result = engine.backward(lambda tasks: losses_of(net, x, y, tasks))
    finally:
        dist.destroy_process_group()
    assert result.ranks == 4
    assert "ranks=4" in repr(engine)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("preset", PRESETS)
def test_whole_matrix(preset, size):
    """Presets x methods x wrappers, uneven last batches and a task missing on one rank."""
    cases = [case for case in MATRIX if case.preset == preset]
    # Rows divided between the ranks, as those of large models are, and rows that all ranks have.
    whole = [replace(case, divided_from=1 << 30) for case in cases if case.wrapper != "fsdp"]
    check(cases + [case for case in whole if case.method in {"mgda", "fairgrad"}], size)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_variants(size):
    """Further options of presets, estimators and methods."""
    check(VARIANTS, size)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_representation(size):
    """All of them at the representation."""
    check(REPRESENTATION, size)
