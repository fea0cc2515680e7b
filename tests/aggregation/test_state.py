"""A method that is restored into a fresh object goes on as the original does, bit for bit."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchjd.aggregation
from torch import Tensor, nn
from torchjd.aggregation import Aggregator
from torchjd.scalarization import Scalarizer

from samo import aggregation
from samo.aggregation import SeesSharpness, capture, restore

K = 3
Make = Callable[[], Any]


def by_name(name: str, **options: Any) -> Make:
    needed = {"weights": [1.0, 2.0, 3.0]} if name == "constant" else {}
    return lambda: aggregation.create(name, K, **needed, **options)


MAKERS: dict[str, Make] = {name: by_name(name) for name in aggregation.available()}
MAKERS |= {
    "cr-mogm of gradvac": by_name("cr-mogm", base="gradvac"),
    "excess-mtl in its warm-up": by_name("excess-mtl", n_warmup_steps=3),
    "nash-mtl of the matrix, every second step": lambda: torchjd.aggregation.NashMTL(
        K, update_weights_every=2
    ),
    "nash-mtl of the matrix": lambda: torchjd.aggregation.NashMTL(K),
    "sdmgrad": by_name("sdmgrad", lr=0.1),  # its usual steps soon forget where they began
    "pcd with a tau for each task": by_name("pcd", tau=[0.1, 0.2]),
    "upgrad with preferences": by_name("upgrad", pref_vector=[0.2, 0.3, 0.5]),
}
STATEFUL = [name for name in aggregation.available() if aggregation.describe(name).stateful]


def run(method: Any, calls: int, seed: int) -> list[Tensor]:
    """Calls a method as a training loop does, on inputs that the seed determines."""
    inputs = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    results: list[Tensor] = []
    takes_losses: bool = isinstance(method, Scalarizer)
    for index in range(calls):
        if not takes_losses:
            results.append(method(torch.randn(K, 7, generator=inputs, dtype=torch.float64)))
            continue
        losses = (torch.rand(K, generator=inputs) + 0.1).requires_grad_()
        own = [p for p in method.parameters() if p.requires_grad]
        grads = torch.autograd.grad(method(losses), [losses, *own], allow_unused=True)
        results.append(grads[0])
        with torch.no_grad():
            for parameter, grad in zip(own, grads[1:], strict=True):
                if grad is not None:
                    parameter.sub_(0.1 * grad)
        if isinstance(method, SeesSharpness):
            method.see_sharpness(torch.rand(K, generator=inputs), torch.arange(K))
        if hasattr(method, "update"):
            method.update(losses.detach() * torch.rand(K, generator=inputs))
        if hasattr(method, "step") and index % 2:
            method.step()
    return results


def through_disk(state: Any) -> Any:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("calls", [0, 1, 4])
@pytest.mark.parametrize("name", MAKERS)
def test_goes_on_bit_for_bit(name: str, calls: int) -> None:
    original, fresh = MAKERS[name](), MAKERS[name]()
    run(original, calls, seed=1)
    state = capture(original)
    saved = through_disk(state)
    expected = run(original, 3, seed=2)
    restore(fresh, saved)
    assert all(map(torch.equal, run(fresh, 3, seed=2), expected))
    # The state is a copy: neither object has changed it, and it leads back as well as on.
    restore(original, state)
    assert all(map(torch.equal, run(original, 3, seed=2), expected))


@pytest.mark.parametrize("name", STATEFUL)
def test_the_state_is_needed(name: str) -> None:
    original, fresh = MAKERS[name](), MAKERS[name]()
    run(original, 4, seed=1)
    assert not all(map(torch.equal, run(fresh, 20, seed=2), run(original, 20, seed=2)))


class Everything(Aggregator):
    """A user's method with state of every kind in every place."""

    hidden: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.late: Tensor | None = None
        self.register_buffer("buffer", None)
        self.register_buffer("hidden", torch.zeros(()), persistent=False)
        self.weight = nn.Parameter(torch.ones(K))
        self.logits = torch.zeros(K, requires_grad=True)
        self.optimizer = torch.optim.SGD([self.logits, self.weight], lr=0.1, momentum=0.9)
        self.noise = torch.Generator().manual_seed(0)
        self.array = np.zeros((K, 2), order="F")
        self.scalar = np.float32(0.0)
        self.table: dict[Any, Any] = {}
        self.history: list[Any] = []
        self.key: tuple[Any, ...] = (1, None, "a", torch.float32, torch.device("cpu"))
        self.scheme: Any = lambda weights: weights.softmax(0)

    def forward(self, matrix: Tensor, /) -> Tensor:
        weights = self.scheme(self.logits) + self.weight
        (weights @ matrix).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        noise = torch.rand(K, generator=self.noise)
        self.late = noise if self.late is None else self.late + noise
        self.buffer = self.late * 2
        self.hidden += 1
        self.array += 0.1
        self.scalar = np.float32(self.scalar + 0.3)
        self.table[len(self.history), "noise"] = noise
        self.history.append((self.scalar, [noise.double()]))
        self.key = (*self.key, len(self.history))
        total = self.array.sum() + float(self.scalar) + sum(map(torch.sum, self.table.values()))
        return (weights + self.buffer + self.hidden * total).detach() @ matrix


def test_a_method_of_the_users_own() -> None:
    original, fresh = Everything(), Everything()
    inputs = torch.randn(6, K, 4)
    for matrix in inputs[:3]:
        original(matrix)
    restore(fresh, through_disk(capture(original)))
    assert fresh.key == original.key
    assert fresh.array.flags.f_contiguous
    assert type(fresh.scalar) is np.float32
    assert fresh.scheme is not original.scheme
    for matrix in inputs[3:]:
        assert torch.equal(fresh(matrix), original(matrix))
    assert torch.equal(fresh.logits, original.logits)


def test_parameters_keep_their_identity() -> None:
    method: Any = aggregation.create("uw", K)
    parameter = method.log_var
    state = capture(method)
    with torch.no_grad():
        parameter.fill_(3.0)
    restore(method, state)
    assert method.log_var is parameter
    assert torch.equal(parameter, torch.zeros(K))


def test_what_this_machine_lacks_goes_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = torch.empty

    def no_xpu(*size: int, device: str) -> Tensor:
        if device == "xpu:7":
            raise RuntimeError(device)
        return empty(*size, device=device)

    method = aggregation.create("modo", K)
    run(method, 1, seed=0)
    state = capture(method)
    entry = (
        state["gramian_weighting"] if "gramian_weighting" in state else state["weighting.weighting"]
    )
    entry["buffers"]["_lambda"]["tensor"][1] = "xpu:7"
    entry["attributes"]["_state_key"]["tuple"][2] = {"device": "xpu:7"}
    monkeypatch.setattr(torch, "empty", no_xpu)
    fresh: Any = aggregation.create("modo", K)
    restore(fresh, state)
    assert fresh.gramian_weighting._state_key[2] == torch.device("cpu")
    assert fresh.gramian_weighting._lambda.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (by_name("dwa"), by_name("famo"), "The state belongs to DWA; the method is FAMO"),
        (by_name("mgda"), by_name("pcgrad"), "belongs to MGDA, .*MGDAWeighting; .* is PCGrad"),
        (
            lambda: aggregation.create("uw", 2),
            lambda: aggregation.create("uw", 4),
            r"parameters of UW differ: .*\[2\].* in the state, .*\[4\].* in the method",
        ),
        (
            lambda: aggregation.create("uw", 2).double(),
            lambda: aggregation.create("uw", 2),
            "float64.* in the state, .*float32.* in the method",
        ),
    ],
)
def test_a_state_of_another_method_changes_nothing(
    source: Make, target: Make, message: str
) -> None:
    donor, receiver = source(), target()
    before = copy.deepcopy(capture(receiver))
    with pytest.raises(ValueError, match=message):
        restore(receiver, capture(donor))
    assert str(capture(receiver)) == str(before)


def test_an_optimizer_of_foreign_tensors_is_refused() -> None:
    method = Everything()
    method.optimizer = torch.optim.SGD([torch.zeros(2, requires_grad=True)], lr=0.1)
    with pytest.raises(ValueError, match=r"optimizer 'optimizer' .* the method's own tensors"):
        capture(method)
