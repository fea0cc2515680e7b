"""Several processes take the step that one process takes with the whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from tests.distributed.cases import MATRIX, PRESETS, VARIANTS, Case, alone, run_all
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
    check(MATRIX[::7] + VARIANTS, 2)


def test_three_ranks():
    """Another part."""
    check(MATRIX[1::7], 3)


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
