"""Random signs, made of bits."""

from __future__ import annotations

import pytest
import torch

from samo.model import rademacher_


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("length", [0, 1, 7, 63, 64, 65, 1000])
def test_signs(dtype, length):
    """All are ±1, whatever was there; the same from one state, others from the next."""
    vector = torch.full((length,), torch.nan, dtype=dtype)
    g = generator()
    first = rademacher_(vector, g).clone()
    assert first.dtype == dtype
    assert torch.equal(first.abs(), torch.ones(length, dtype=dtype))
    assert torch.equal(rademacher_(vector.clone(), generator()), first)
    if length > 60:
        assert not torch.equal(rademacher_(vector, g), first)


def test_they_are_fair_and_independent():
    """Each of the 64 places of a word is fair; no place tells another, or the next word's."""
    words = 20_000
    signs = rademacher_(torch.empty(64 * words, dtype=torch.float64), generator(1)).view(words, 64)
    limit = 5 * words**-0.5
    assert signs.mean(0).abs().max() < limit
    within = signs.T @ signs / words - torch.eye(64, dtype=torch.float64)
    assert within.abs().max() < limit
    between = signs[:-1].T @ signs[1:] / (words - 1)
    assert between.abs().max() < limit


def test_parts_of_a_vector_are_those_of_the_whole():
    """A rank that holds a slice draws chunks of it, from where a word begins."""
    whole = rademacher_(torch.empty(1000), generator())
    g = generator()
    parts = [rademacher_(torch.empty(n), g) for n in (640, 320, 40)]
    assert torch.equal(torch.cat(parts), whole)
