"""Flat storage against plain torch: mixed dtypes, memory formats, empty and 0-d tensors."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import samo
from samo.tensors import Layout, wide, widest


def lists():
    """Lists of tensors such as models have."""
    torch.manual_seed(0)
    conv = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    half, wide_one = torch.randn(5).bfloat16(), torch.randn(2, 3, dtype=torch.float64)
    return {
        "none": [],
        "one": [torch.randn(3, 4)],
        "many": [torch.randn(3, 4), torch.randn(()), torch.randn(2, 0), torch.randn(1)],
        "formats": [conv, torch.randn(3, 5).t(), torch.randn(4, 6)[:, ::2], torch.randn(1)],
        "expanded": [torch.randn(3, 1).expand(3, 4), torch.randn(2)],
        "dtypes": [wide_one, half, torch.randn(4), torch.randn(3, dtype=torch.float64)],
        "empty": [torch.randn(0)],
    }


LISTS = list(lists())


def others(tensors, seed=1):
    """Other values, in layouts of their own."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(t.shape, generator=generator).to(t.dtype) for t in tensors]


def equal(vector, tensors, tolerance=0.0):
    assert len(vector.tensors) == len(tensors)
    for own, tensor in zip(vector.tensors, tensors, strict=True):
        assert own.dtype == tensor.dtype
        assert own.shape == tensor.shape
        torch.testing.assert_close(own, tensor, rtol=tolerance, atol=tolerance)


def long(tensors):
    """All values in float64, one after the other."""
    return torch.cat([torch.zeros(0).double(), *(t.double().flatten() for t in tensors)])


@pytest.mark.parametrize("name", LISTS)
def test_arithmetic(name):
    """Vectors are their tensors: copies, sums, products, norms."""
    tensors = lists()[name]
    more = others(tensors)
    layout = Layout(tensors)
    equal(layout.zeros(), [torch.zeros_like(t) for t in tensors])
    vector = layout.copy_of(tensors)
    equal(vector, tensors)
    equal(vector.add_(more), [a + b for a, b in zip(tensors, more, strict=True)])
    equal(layout.copy_of(tensors).mul_(2.0), [a * 2 for a in tensors])
    equal(layout.copy_of(tensors).mul_(torch.tensor(0.5)), [a * 0.5 for a in tensors])
    for alpha in (0.25, torch.tensor(0.25)):
        got = layout.copy_of(tensors).add_(more, alpha)
        equal(got, [a + 0.25 * b for a, b in zip(tensors, more, strict=True)], 1e-2)
    equal(
        layout.copy_of(tensors).hadamard_(more),
        [a * b for a, b in zip(tensors, more, strict=True)],
    )
    masks = [None if i % 2 else t > 0 for i, t in enumerate(tensors)]
    equal(
        layout.copy_of(tensors).hadamard_(masks),
        [a if m is None else a * m for a, m in zip(tensors, masks, strict=True)],
    )
    assert layout.copy_of(tensors).norm().item() == pytest.approx(long(tensors).norm().item(), 1e-6)
    norms = layout.copy_of(tensors).norms()
    assert all(norm.dtype == wide(t.dtype) for norm, t in zip(norms, tensors, strict=True))
    assert [n.item() for n in norms] == pytest.approx([t.double().norm().item() for t in tensors])


@pytest.mark.parametrize("name", LISTS)
def test_none_stands_for_zero(name):
    """In copies and in sums."""
    tensors = lists()[name]
    some = [None if i % 2 == 0 else t for i, t in enumerate(tensors)]
    zeros = [torch.zeros_like(t) if s is None else t for s, t in zip(some, tensors, strict=True)]
    layout = Layout(tensors)
    equal(layout.copy_of(some), zeros)
    equal(layout.copy_of(tensors).copy_(some), zeros)
    summed = layout.copy_of(tensors).add_(some)
    equal(summed, [t + z for t, z in zip(tensors, zeros, strict=True)])
    equal(layout.copy_of([None] * len(tensors)), [torch.zeros_like(t) for t in tensors])


@pytest.mark.parametrize("name", LISTS)
def test_storage(name):
    """One flat tensor for each dtype, in the tensors' own memory formats, shared with the views."""
    tensors = lists()[name]
    vector = Layout(tensors).copy_of(tensors)
    assert sorted(str(f.dtype) for f in vector.flats) == sorted({str(t.dtype) for t in tensors})
    assert sum(f.numel() for f in vector.flats) == sum(t.numel() for t in tensors)
    for own, tensor in zip(vector.tensors, tensors, strict=True):
        assert own.stride() == torch.empty_like(tensor).stride()
        # No two values of a view are one, so that it can be a gradient.
        assert len({i.item() for i in _offsets(own)}) == own.numel()
    for flat in vector.flats:
        flat.fill_(3.0)
    assert all((own == 3).all() for own in vector.tensors)


def _offsets(tensor):
    steps = torch.zeros(tensor.shape, dtype=torch.long)
    for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        shape = [1] * tensor.dim()
        shape[dim] = size
        steps = steps + (torch.arange(size) * stride).view(shape)
    return (steps + tensor.storage_offset()).flatten()


@given(counts=st.lists(st.integers(0, 3), max_size=6))
def test_sections(counts):
    """Some of the tensors at a time: their own numbers, which are the whole's."""
    tensors = [*lists()["dtypes"], *lists()["formats"], *lists()["many"], *lists()["one"]]
    tensors = [tensors[i % len(tensors)] for i in range(sum(counts))]
    vector = Layout(tensors).copy_of(tensors)
    for _ in range(2):  # made, and found again
        sections, left = vector.layout.sections(vector, counts), list(vector.tensors)
        for count, section in zip(counts, sections, strict=True):
            mine, left = left[:count], left[count:]
            equal(section, mine)
            expected = long(mine).norm()
            torch.testing.assert_close(section.norm().double(), expected, rtol=1e-2, atol=0)
            section.mul_(2.0)
            assert sum(flat.numel() for flat in section.flats) == sum(t.numel() for t in mine)
    assert not left
    equal(vector, [t * 4 for t in tensors])


@pytest.mark.parametrize("name", LISTS)
def test_matrix(name):
    """Rows, the Gramian, weighted sums, the whole."""
    tensors = lists()[name]
    rows = [others(tensors, seed) for seed in range(3)]
    layout = Layout(tensors)
    matrix = layout.matrix(3)
    for vector, row in zip(matrix.rows, rows, strict=True):
        vector.copy_(row)
    dense = torch.stack([long(row) for row in rows])
    gramian = matrix.gramian()
    assert gramian.dtype == torch.float64
    torch.testing.assert_close(gramian, dense @ dense.T, rtol=1e-12, atol=1e-12)
    weights = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    tolerance = 0.05 if name == "dtypes" else 1e-5  # bfloat16 is among the dtypes
    combined = matrix.combine(weights)
    torch.testing.assert_close(
        long(combined.tensors), weights @ dense, rtol=tolerance, atol=tolerance
    )
    if tensors:
        whole = matrix.whole()
        assert whole.dtype == wide(widest(tensors))
        torch.testing.assert_close(whole.double() @ whole.double().T, dense @ dense.T)
        back = layout.over(whole[1])
        equal(back, rows[1])
    chosen = matrix.select([2, 0])
    equal(chosen.rows[0], rows[2])
    equal(chosen.rows[1], rows[0])
    chosen.flats and chosen.flats[0].zero_()
    equal(matrix.rows[2], rows[2])  # a selection is a copy
    assert matrix.select([0, 1, 2]) is matrix
    other = layout.matrix(3)
    for vector, row in zip(other.rows, rows[::-1], strict=True):
        vector.copy_(row)
    for vector, a, b in zip(matrix.sub_(other).rows, rows, rows[::-1], strict=True):
        equal(vector, [x - y for x, y in zip(a, b, strict=True)])


@settings(max_examples=20)
@given(columns=st.integers(0, 200_000), rows=st.integers(1, 3))
def test_gramian_of_many_columns(columns, rows):
    """The Gramian is that of float64 arithmetic, however it is cut into pieces."""
    generator = torch.Generator().manual_seed(columns)
    values = torch.randn(rows, columns, generator=generator)
    matrix = Layout([torch.empty(columns)]).matrix(rows)
    matrix.flats[0].copy_(values)
    torch.testing.assert_close(
        matrix.gramian(), values.double() @ values.double().T, rtol=1e-10, atol=1e-10
    )


def test_norms_are_taken_in_float32_or_wider():
    """Sums of squares of bfloat16 and float16 neither overflow nor lose their small terms."""
    for dtype in (torch.bfloat16, torch.float16):
        tensors = [torch.full((70_000,), 200.0, dtype=dtype)]
        norm = Layout(tensors).copy_of(tensors).norm()
        assert norm.dtype == torch.float32
        assert norm.item() == pytest.approx(200 * math.sqrt(70_000), rel=1e-4)


def params(model):
    return dict(model.named_parameters())


@pytest.mark.parametrize("aggregator", ["ls", "mgda", "config"])
@pytest.mark.parametrize("preset", [samo.ERM, samo.FMTL, samo.SAMO])
def test_gradients_have_the_parameters_formats(preset, aggregator):
    """A channels-last model with mixed dtypes and odd strides gets gradients of its own kinds."""
    torch.manual_seed(0)

    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
            self.nothing = nn.Parameter(torch.ones(0))
            self.odd = nn.Parameter(torch.randn(5, 4).t())
            self.small = nn.Parameter(torch.randn(5).bfloat16())

        def losses(self, tasks):
            x = torch.linspace(-1, 1, 2 * 3 * 6 * 6).view(2, 3, 6, 6).sin()
            h = self.conv(x.to(memory_format=torch.channels_last)).mean((2, 3)).tanh()
            h = (h @ self.odd + self.small.float()) * self.scale + self.nothing.sum()
            return {task: (h - i).square().mean() for i, task in enumerate("ab") if task in tasks}

    model: Any = Mixed()
    model.to(memory_format=torch.channels_last)
    twin = copy.deepcopy(model)
    before = {name: (p.dtype, p.stride()) for name, p in params(model).items()}
    engine = preset(model, ["a", "b"], aggregator=aggregator)
    engine.backward(model.losses)
    torch.stack(list(twin.losses("ab").values())).sum().backward()
    for name, parameter in params(model).items():
        gradient, its = parameter.grad, params(twin)[name].grad
        assert (parameter.dtype, parameter.stride()) == before[name]
        assert gradient is not None
        assert gradient.dtype == parameter.dtype
        assert gradient.shape == parameter.shape
        assert gradient.is_contiguous(memory_format=torch.channels_last) == (
            its.is_contiguous(memory_format=torch.channels_last)
        )
        if preset is samo.ERM and aggregator == "ls":
            torch.testing.assert_close(gradient, its, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("preset", [samo.ERM, samo.SAMO])
def test_complex_parameters_are_refused(preset):
    """By name, and with the way out, which works."""

    class Wave(nn.Module):
        def __init__(self, dtype):
            super().__init__()
            torch.manual_seed(0)
            weight = torch.randn(4, dtype=torch.complex64)
            self.weight = nn.Parameter(weight if dtype.is_complex else torch.view_as_real(weight))

        def losses(self, tasks):
            real = not self.weight.is_complex()
            weight = torch.view_as_complex(self.weight) if real else self.weight
            return {t: (weight - i).abs().square().mean() for i, t in enumerate("ab") if t in tasks}

    model = Wave(torch.complex64)
    before = model.weight.detach().clone()
    with pytest.raises(ValueError, match="Parameter 'weight' is complex"):
        preset(model, ["a", "b"], aggregator="mgda").backward(model.losses)
    assert model.weight.grad is None
    assert torch.equal(model.weight, before)
    model = Wave(torch.float32)
    preset(model, ["a", "b"], aggregator="mgda").backward(model.losses)
    assert model.weight.grad is not None
