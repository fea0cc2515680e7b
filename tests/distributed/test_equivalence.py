"""Several processes take the step that one process takes with the whole batch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from tests.distributed.cases import MATRIX, VARIANTS, Case, alone, run_all
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
def test_whole_matrix(size):
    """Presets x methods x wrappers, uneven last batches and a task missing on one rank."""
    check(MATRIX + VARIANTS, size)
