"""What every method must do, as the engine uses it; a method joins by being registered."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from samo import aggregation
from samo.aggregation import Combiner, capture, restore
from samo.tensors import Layout
from tests.aggregation.subject import KINDS, aggregate, gradients, losses_of, make, options

NAMES = aggregation.available()
SCALES = (1e-15, 1e-8, 1e8, 1e15)

# Methods that look at the position of a task.
BY_POSITION = {"constant", "stl", "ldc-mtl", "pcd"}
# Methods that draw random numbers: equivariant in distribution only.
RANDOM = {"rlw", "pcgrad", "graddrop", "gradvac"}

# Where a method fails the suite, and why: by method and kind of gradients, or method and scale.
KNOWN: dict[tuple[str, str | float], str] = {
    ("modo", 1e15): (
        "TorchJD's projection onto the simplex loses 1 against numbers of 1e30: all weights are 0."
    ),
}


def cases(properties: Sequence[str | float]) -> list[Any]:
    """Every method with every property; those that are known to fail must do so."""
    marks = {
        case: [pytest.mark.xfail(strict=True, reason=reason)] for case, reason in KNOWN.items()
    }
    return [
        pytest.param(name, property_, marks=marks.get((name, property_), []))
        for name in NAMES
        for property_ in properties
    ]


def sizes(name: str, *wanted: int) -> list[int]:
    """Those numbers of tasks that the method takes."""
    return [k for k in wanted if k >= aggregation.describe(name).min_tasks]


def check(direction: Tensor, weights: Tensor | None, rows: Tensor) -> None:
    assert direction.shape == (rows.shape[1],)
    assert direction.dtype == rows.dtype
    assert direction.isfinite().all()
    if weights is not None:
        assert weights.shape == (len(rows),)
        assert weights.isfinite().all()


@pytest.mark.parametrize(("name", "kind"), cases(KINDS))
def test_degenerate_gradients(name: str, kind: str) -> None:
    """A finite direction, over several steps, and none where there are no gradients."""
    for k in sizes(name, 1, 2, 3, 11, *([40] if kind in ("random", "all zero") else [])):
        method, rows = make(name, k), gradients(kind, k)
        for step in range(2 if k < 40 else 1):
            direction, weights = aggregate(method, rows, losses_of(k) / (step + 1))
            check(direction, weights, rows)
            if kind == "all zero":
                assert not direction.any()
            if kind == "identical":
                assert direction @ rows[0] > 0


def cancelled(direction: Tensor, weights: Tensor | None, rows: Tensor) -> bool:
    """Whether the weighted gradients cancel: whether the direction is zero, up to rounding.

    Rounding leaves some ε of the gradients that are added up, or nothing at all. The weights are
    those of a solver that works at a tolerance of 1e-12 or less.
    """
    if weights is None:
        return not direction.any()
    return direction.norm().item() <= 1e-9 * (weights.abs().to(rows) @ rows.norm(dim=1)).item()


@pytest.mark.parametrize(("name", "scale"), cases(SCALES))
def test_scales(name: str, scale: float) -> None:
    """Gradients (and losses) of any size: no overflow, and no direction lost."""
    for kind in ("random", "conflicting", "rank 2"):
        for k in sizes(name, *((1, 3) if kind == "random" else (3,))):
            rows, losses = gradients(kind, k) * scale, losses_of(k) * scale
            direction, weights = aggregate(make(name, k), rows, losses)
            check(direction, weights, rows)
            plain = aggregate(make(name, k), rows / scale, losses / scale)
            lost = cancelled(direction, weights, rows)
            assert lost == cancelled(*plain, rows / scale)
            assert not lost or kind == "rank 2"  # of which a combination is zero


def scale_free(method: Combiner) -> bool:
    return getattr(method, "scale_free", False)


@pytest.mark.parametrize("power", [-50, -3, 50])
@pytest.mark.parametrize("kind", ["random", "conflicting", "of all sizes"])
@pytest.mark.parametrize("name", [n for n in NAMES if scale_free(make(n, 5))])
def test_scale_free(name: str, kind: str, power: int) -> None:
    """Multiplying all gradients by a power of two does exactly that to the direction."""
    rows = gradients(kind, 5)
    torch.manual_seed(0)
    plain, _ = aggregate(make(name, 5), rows, losses_of(5))
    torch.manual_seed(0)
    scaled, _ = aggregate(make(name, 5), rows * 2.0**power, losses_of(5))
    assert torch.equal(scaled, plain * 2.0**power)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_dtypes(name: str, dtype: torch.dtype) -> None:
    """The direction has the gradients' dtype, and that of float64 but for its precision."""
    k = 4
    rows, losses = gradients("random", k).to(dtype), losses_of(k).to(dtype)
    method, exact = make(name, k), make(name, k)
    for _ in range(2):
        torch.manual_seed(0)
        direction, weights = aggregate(method, rows, losses.float())
        torch.manual_seed(0)
        expected, _ = aggregate(exact, rows.double(), losses.double())
        check(direction, weights, rows)
        if name == "graddrop":  # the numbers it draws depend on the dtype
            continue
        tolerance = 30 * torch.finfo(dtype).eps * max(1.0, expected.norm().item())
        if weights is not None:
            tolerance *= max(1.0, weights.abs().sum().item())
        torch.testing.assert_close(direction.double(), expected, rtol=0, atol=tolerance + 1e-6)


@pytest.mark.parametrize("k", [2, 5])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in BY_POSITION | RANDOM])
def test_permutation(name: str, k: int) -> None:
    """In another order, the tasks get the same weights, over several steps."""
    if not sizes(name, k):
        return
    order = torch.randperm(k, generator=torch.Generator().manual_seed(1))
    method, other = make(name, k), make(name, k)
    for step in range(3):
        rows, losses = gradients("random", k) + 0.3 * step, losses_of(k) / (1 + step)
        direction, weights = aggregate(method, rows, losses)
        permuted, its = aggregate(other, rows[order], losses[order])
        scale = direction.norm().item()
        torch.testing.assert_close(permuted, direction, rtol=0, atol=1e-5 * scale)
        if weights is not None and its is not None:
            torch.testing.assert_close(its, weights[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(RANDOM))
def test_permutation_in_distribution(name: str) -> None:
    """Methods that draw: the mean direction does not depend on the order."""
    rows, losses, order = gradients("conflicting", 3), losses_of(3), torch.tensor([2, 0, 1])
    n, means, spreads = 300, [], []
    torch.manual_seed(0)
    for permutation in (torch.arange(3), order):
        method = make(name, 3)
        drawn = torch.stack(
            [aggregate(method, rows[permutation], losses[permutation])[0] for _ in range(n)]
        )
        means.append(drawn.mean(0))
        spreads.append(drawn.var(0) / n)
    error = (spreads[0] + spreads[1]).sqrt()
    assert error.any()
    assert ((means[0] - means[1]).abs() <= 5 * error + 1e-9).all()


@pytest.mark.parametrize("name", NAMES)
def test_absent_tasks(name: str) -> None:
    """A task may be absent, from the first step too."""
    k = 4
    method = make(name, k)
    rows, losses = gradients("random", k), losses_of(k)
    for present in ([0, 1, 3], [0, 1, 2, 3], [1, 2, 3], [0, 2, 3]):
        direction, weights = aggregate(method, rows[present], losses[present], present)
        check(direction, weights, rows[present])


@pytest.mark.parametrize("loss", [0.0, -1.0])
@pytest.mark.parametrize(
    "name",
    [n for n in NAMES if aggregation.describe(n).kind.__module__.startswith("samo")],
)
def test_losses_that_are_not_positive(name: str, loss: float) -> None:
    """Ours refuse them where they need logarithms or quotients, and give no NaN otherwise.

    TorchJD's document that they do not check; the engine names the task.
    """
    losses = losses_of(3).index_fill(0, torch.tensor(1), loss)
    method, rows = make(name, 3), gradients("random", 3)
    try:
        direction, weights = aggregate(method, rows, losses)
    except ValueError as error:
        assert "needs positive losses; found [" in str(error)  # noqa: PT017 - either will do
    else:
        check(direction, weights, rows)


def trained(method: Any, steps: int, seed: int) -> Iterator[Tensor]:
    """A training loop's calls, on inputs that the seed determines."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    k = method.n_tasks
    for step in range(steps):
        rows = torch.randn(k, 23, generator=generator, dtype=torch.float64)
        losses = torch.rand(k, generator=generator, dtype=torch.float64) + 0.1
        if method.weighs_first:
            weights, gradients_of_method = method.weigh(losses, range(k))
            yield weights
            risen = losses + torch.rand(k, generator=generator, dtype=torch.float64)
            method.learn(dict(enumerate(losses)), dict(enumerate(risen)), range(k))
        else:
            _, gradients_of_method = method.tell(losses, range(k))
            yield aggregate_told(method, rows)
        with torch.no_grad():
            for parameter, gradient in zip(method.parameters, gradients_of_method, strict=False):
                if gradient is not None:
                    parameter.sub_(0.1 * gradient.to(parameter.dtype))
        if hasattr(method.method, "update"):
            method.method.update(losses**2)
        if hasattr(method.method, "step") and step % 2:
            method.method.step()


def aggregate_told(method: Any, rows: Tensor) -> Tensor:
    """The direction of a method that has received the losses."""
    matrix = Layout([rows[0]]).matrix(len(rows))
    for vector, row in zip(matrix.rows, rows, strict=True):
        vector.copy_([row])
    return method.combine(matrix, matrix.gramian(), range(len(rows)))[0].flats[0]


@pytest.mark.parametrize("name", NAMES)
def test_state(name: str) -> None:
    """Restored into a fresh object, through a file, it goes on bit for bit.

    So do the methods themselves, from the beginning as well: `test_goes_on_bit_for_bit`.
    """
    original, fresh = make(name, 3), make(name, 3)
    list(trained(original, 4, seed=1))
    file = io.BytesIO()
    torch.save({"method": capture(original.method), "last": original.last}, file)
    file.seek(0)
    expected = list(trained(original, 3, seed=2))
    saved = torch.load(file, weights_only=True)
    restore(fresh.method, saved["method"])
    fresh.last = saved["last"]
    assert all(map(torch.equal, trained(fresh, 3, seed=2), expected))


@pytest.mark.parametrize("name", NAMES)
def test_what_is_said_of_the_state(name: str) -> None:
    """Without a state, what came before makes no difference; trained is what gets a gradient."""
    said, used, fresh = aggregation.describe(name), make(name, 3), make(name, 3)
    list(trained(used, 6, seed=1))
    after, new = list(trained(used, 2, seed=2)), list(trained(fresh, 2, seed=2))
    same = all(map(torch.equal, after, new))
    assert same != (said.stateful or said.trained)
    told = fresh.weigh if fresh.weighs_first else fresh.tell
    assert said.trained == any(g is not None for g in told(losses_of(3), range(3))[1])


@pytest.mark.parametrize("name", NAMES)
def test_reset(name: str) -> None:
    """`reset` makes it as new."""
    if not hasattr(aggregation.describe(name).kind, "reset"):
        return
    method: Any = make(name, 3)
    new = list(trained(make(name, 3), 3, seed=2))
    list(trained(method, 4, seed=1))
    next(m for m in [method.method, *method.method.modules()] if hasattr(m, "reset")).reset()
    assert all(map(torch.equal, trained(method, 3, seed=2), new))


@pytest.mark.parametrize("name", NAMES)
def test_the_step_is_deterministic_and_leaves_its_inputs_alone(name: str) -> None:
    rows, losses = gradients("random", 3), losses_of(3)
    kept = rows.clone(), losses.clone()
    method = make(name, 3)
    twin = copy.deepcopy(method)
    torch.manual_seed(0)
    first, _ = aggregate(method, rows, losses)
    torch.manual_seed(0)
    second, _ = aggregate(twin, rows, losses)
    assert torch.equal(first, second)
    assert torch.equal(rows, kept[0])
    assert torch.equal(losses, kept[1])
    assert not math.isnan(first.sum().item())


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_devices(name: str) -> None:
    """On a GPU the direction is there, and that of the CPU but for rounding and random numbers."""
    method, other = make(name, 4), make(name, 4)
    rows, losses = gradients("random", 4), losses_of(4)
    for _ in range(2):
        direction, weights = aggregate(method, rows.cuda(), losses.cuda())
        expected, _ = aggregate(other, rows, losses)
        assert direction.device.type == "cuda"
        check(direction, weights, rows)
        if name not in RANDOM:
            torch.testing.assert_close(direction.cpu(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_weighting_by_itself_is_recognised(name: str) -> None:
    """What is inside of an aggregator is of the same method, and has the same paper."""
    made = aggregation.create(name, 3, **options(name, 3))
    weighting = getattr(made, "gramian_weighting", None)
    if weighting is None or name == "nash-mtl":  # which is TorchJD's, behind a root of the Gramian
        return
    found = aggregation.method_of(weighting)
    assert found is not None
    assert found.name == name


@pytest.mark.parametrize("name", NAMES)
def test_repr(name: str) -> None:
    """Of the classes that this package exports, `repr` reconstructs."""
    made = aggregation.create(name, 3, **options(name, 3))
    if type(made).__name__ in aggregation.__all__:
        assert repr(eval(repr(made), vars(aggregation))) == repr(made)
