"""Spectra agree with known eigenvalues and with dense Hessians."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader, TensorDataset

from samo import NonFiniteError
from samo.analysis import AnalysisError, Spectrum, hessian_spectrum
from tests.problems import MODELS, TASKS, X, Y, losses, problem

Losses = Callable[[Any, Sequence[str]], Mapping[str, Tensor]]


class Point(nn.Module):
    """A vector of parameters."""

    def __init__(self, n: int, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.x = nn.Parameter(torch.randn(n, dtype=dtype, generator=generator))


def rotated(eigenvalues: Tensor) -> tuple[Tensor, Tensor]:
    """Makes examples x_j and signs s_j such that the mean of s_j x_j x_jᵀ has these eigenvalues."""
    n = len(eigenvalues)
    generator = torch.Generator().manual_seed(n)
    basis = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))[0]
    return (n * eigenvalues.abs()).sqrt()[:, None] * basis, eigenvalues.sign()


def quadratic(point: Point) -> Losses:
    """l = mean of ½ s_j (x_jᵀ θ)²; and b, twice this."""

    def evaluate(batch: tuple[Tensor, Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        x, sign = batch
        loss = (0.5 * sign * (x @ point.x).square()).mean()
        return {task: {"a": loss, "b": 2 * loss}[task] for task in tasks}

    return evaluate


@settings(max_examples=25)
@given(
    st.lists(st.floats(-5, 10), min_size=6, max_size=60),
    st.integers(1, 5),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_known_eigenvalues_whatever_the_batches(
    values: list[float], k: int, cuts: list[int]
) -> None:
    """A batch is weighted by the number of its examples."""
    eigenvalues = torch.tensor(values, dtype=torch.float64)
    x, sign = rotated(eigenvalues)
    sizes = [*cuts, len(x)]
    ends = [min(sum(sizes[: i + 1]), len(x)) for i in range(len(sizes))]
    batches = [(x[a:b], sign[a:b]) for a, b in zip([0, *ends], ends, strict=False) if a < b]
    point = Point(len(values))
    found = hessian_spectrum(point, quadratic(point), batches, ["a"], k=k)
    expected = sorted(values, reverse=True)[:k]
    assert found.eigenvalues == pytest.approx(expected, abs=1e-6)
    assert abs(found.trace - sum(values)) <= 6 * found.trace_error + 1e-6
    if len(values) <= 20:
        assert found.trace_error == 0
    assert (found.parameters, found.batches) == (len(values), len(batches))


def test_the_trace_of_a_diagonal_is_exact_and_its_error_is_known() -> None:
    """zᵀDz = tr D for signs z; else Var zᵀHz = 2 Σ_{i≠j} H_ij²."""
    eigenvalues = torch.linspace(-1, 4, 40, dtype=torch.float64)
    point = Point(40)
    diagonal = torch.diag((40 * eigenvalues.abs()).sqrt()), eigenvalues.sign()
    found = hessian_spectrum(point, quadratic(point), [diagonal], ["a"])
    assert found.trace == pytest.approx(eigenvalues.sum().item())
    assert found.trace_error < 1e-9

    batch = rotated(eigenvalues)
    hessian = batch[0].T @ (batch[1][:, None] * batch[0]) / 40
    found = hessian_spectrum(point, quadratic(point), [batch], ["a"], probes=2000)
    variance = 2 * (hessian.square().sum() - hessian.diagonal().square().sum())
    assert found.trace_error == pytest.approx(math.sqrt(variance / 2000), rel=0.1)
    assert abs(found.trace - eigenvalues.sum().item()) < 4 * found.trace_error


def test_the_hessian_of_the_mean_loss_or_of_one_task() -> None:
    batch = rotated(torch.linspace(1, 30, 30, dtype=torch.float64))
    point = Point(30)
    mean = hessian_spectrum(point, quadratic(point), [batch], ["a", "b"])
    one = hessian_spectrum(point, quadratic(point), [batch], ["b"])
    assert mean.lambda_max == pytest.approx(45)
    assert one.lambda_max == pytest.approx(60)
    assert one.lambda_ratio == pytest.approx(30 / 26)
    assert (mean.task, one.task) == (None, "b")


def dense(
    model: nn.Module, names: Sequence[str], tasks: Sequence[str], of: Losses, batch: Any
) -> Tensor:
    """Computes the Hessian of the mean loss by torch.autograd.functional."""
    model.eval()
    parameters = dict(model.named_parameters())
    shapes = [parameters[n].shape for n in names]

    def mean(flat: Tensor) -> Tensor:
        parts = flat.split([shape.numel() for shape in shapes])
        values = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}

        class Called(nn.Module):
            def forward(self, asked: Any) -> Any:
                return functional_call(model, values, (asked,))

        found = of(Called(), tasks)
        return torch.stack([found[task] for task in tasks]).mean()

    start = torch.cat([parameters[n].detach().flatten() for n in names])
    with sdpa_kernel(SDPBackend.MATH):
        found = torch.autograd.functional.hessian(mean, start)
    assert isinstance(found, Tensor)
    return found


@pytest.mark.parametrize("name", [n for n in MODELS if n not in ("tied", "running")])
def test_spectrum_agrees_with_the_dense_hessian(name: str) -> None:
    made = problem(name)

    def evaluate(_batch: Any, tasks: Sequence[str]) -> dict[str, Tensor]:
        return losses(made.model, tasks)

    trained = [n for n, p in made.model.named_parameters() if p.requires_grad]
    cases: list[tuple[Literal["all", "shared"], list[str], list[str]]]
    cases = [("all", trained, TASKS)]
    if name in ("plain", "branches", "frozen"):  # which parameters depends on the partition alone
        cases += [("all", trained, ["b"]), ("shared", list(made.shared), TASKS)]
    for parameters, names, tasks in cases:
        found = hessian_spectrum(made.model, evaluate, [X], tasks, parameters=parameters)
        whole = dense(made.model, names, tasks, losses, X)
        expected = torch.linalg.eigvalsh(whole).flip(0)[:5]
        torch.testing.assert_close(
            torch.tensor(found.eigenvalues, dtype=torch.float64), expected, rtol=1e-6, atol=1e-6
        )
        assert found.parameters == len(whole)
        assert abs(found.trace - whole.trace().item()) <= 5 * found.trace_error + 1e-9


def test_the_hessian_with_respect_to_some_modules() -> None:
    made = problem("plain")
    head = made.model.get_submodule("heads.b")

    def evaluate(_batch: Any, tasks: Sequence[str]) -> dict[str, Tensor]:
        return losses(made.model, tasks)

    names = [f"heads.b.{n}" for n, _ in head.named_parameters()]
    whole = dense(made.model, names, TASKS, losses, X)
    found = hessian_spectrum(made.model, evaluate, [X], TASKS, parameters=head, k=len(whole))
    torch.testing.assert_close(
        torch.tensor(found.eigenvalues, dtype=torch.float64),
        torch.linalg.eigvalsh(whole).flip(0),
        rtol=1e-6,
        atol=1e-9,
    )
    assert found.trace == pytest.approx(whole.trace().item())


class Normed(nn.Module):
    """A network with batch normalisation and dropout, for batches of any size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.net = nn.Sequential(
            nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 1)
        )
        self.double()

    def losses(self, batch: Sequence[Tensor], tasks: Sequence[str]) -> dict[str, Tensor]:
        x, y = batch
        loss = (self.net(x).squeeze(-1) - y).square().mean()
        return dict.fromkeys(tasks, loss)


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_spectrum_does_not_depend_on_the_batches(shuffle: bool) -> None:
    model = Normed().train()
    model.net(X)  # so that the running statistics are not those of a fresh layer
    whole = hessian_spectrum(model, model.losses, [(X, Y)], ["a"])
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=shuffle)
    parts = hessian_spectrum(model, model.losses, loader, ["a"])
    assert parts.eigenvalues == pytest.approx(whole.eigenvalues, abs=1e-8)
    assert parts.batches == 2


class Counted:
    """Generates batches, and counts those that are alive."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.alive = self.most = 0

    def note(self, tensor: Tensor) -> Tensor:
        self.alive += 1
        self.most = max(self.most, self.alive)
        weakref.finalize(tensor, self.forget)
        return tensor

    def forget(self) -> None:
        self.alive -= 1

    def hook(self, _module: nn.Module, _inputs: Any, output: Tensor) -> None:
        self.note(output)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for i in range(self.n):
            generator = torch.Generator().manual_seed(i)
            x = torch.randn(4, 5, dtype=torch.float64, generator=generator)
            yield self.note(x), x.sum(1)


def test_memory_does_not_grow_with_the_number_of_batches() -> None:
    """Inputs, activations and other tensors of the graph are freed with their batch."""
    most = {}
    for n in (2, 5):
        model, batches = Normed(), Counted(n)
        for module in model.net:
            module.register_forward_hook(batches.hook)
        gc.collect()
        gc.disable()  # nothing may wait for the collector of cycles either
        try:
            hessian_spectrum(model, model.losses, batches, ["a"], probes=2)
        finally:
            gc.enable()
        most[n] = batches.most
    assert 0 < most[2] == most[5]


def test_invalid_arguments_raise_errors() -> None:
    point = Point(30)
    batch = rotated(torch.ones(30, dtype=torch.float64))
    evaluate = quadratic(point)
    for wrong, options in {
        "k must be an integer of at least 1; found 0": {"k": 0},
        "k must not exceed the number of parameters, 30; found 31": {"k": 31},
        "probes must be an integer of at least 2": {"probes": 1},
        '"all", "shared"': {"parameters": "own"},
        "None of the parameters is trainable": {"parameters": []},
        "no example of": {"sizes": lambda batch: {"b": 3}},
    }.items():
        with pytest.raises(AnalysisError, match=wrong):
            hessian_spectrum(point, evaluate, [batch], ["a"], **options)  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match="another re-iterable; found generator"):
        hessian_spectrum(point, evaluate, (b for b in [batch]), ["a"])
    with pytest.raises(AnalysisError, match="batches is empty"):
        hessian_spectrum(point, evaluate, [], ["a"])
    with pytest.raises(AnalysisError, match="Give sizes="):
        hessian_spectrum(point, evaluate, ["text"], ["a"])
    with pytest.raises(AnalysisError, match="no loss of"):
        hessian_spectrum(point, lambda b, tasks: {}, [batch], ["a"])
    with pytest.raises(NonFiniteError, match="product with the Hessian"):
        hessian_spectrum(point, evaluate, [(batch[0] * math.inf, batch[1])], ["a"])


def test_few_eigenvalues_have_no_ratio() -> None:
    assert Spectrum(("a",), (3.0, 1.0), 4.0, 0.0, 9, 1).lambda_ratio is None
    assert Spectrum(("a",), (3.0, 1.0, 0.5, 0.1, -1.0), 4.0, 0.0, 9, 1).lambda_ratio is None
