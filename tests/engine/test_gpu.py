"""The essentials on a CUDA device; skipped where there is none."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torchjd.aggregation as agg
import torchjd.scalarization as sca
from torch import nn
from torch.amp.grad_scaler import GradScaler

import samo
from tests import problems, reference
from tests.problems import TASKS, problem
from tests.tools import Heads, close, gradients, same

pytestmark = [
    pytest.mark.gpu,
    # The reference's deep copies of an LSTM are slower, no more.
    pytest.mark.filterwarnings("ignore:RNN module weights are not part of single:UserWarning"),
]
CUDA = torch.device("cuda", 0)
RHO = 0.1
METHODS: dict[str, Callable[[], Any]] = {
    "ls": sca.Sum,
    "gls": sca.GeometricMean,
    "mean_aggregator": agg.Mean,
    "upgrad": agg.UPGrad,
    "mgda": agg.MGDA,
    "config": agg.ConFIG,
}
PRESETS: dict[str, tuple[Any, dict[str, Any]]] = {
    "erm": (samo.ERM, {}),
    "gsam": (samo.GSAM, {}),
    "msam": (samo.MSAM, {}),
    "heads": (samo.GSAM, {"rho": 0.0, "rho_own": 0.05}),
    "lsam": (samo.LSAM, {}),
    "fmtl": (samo.FMTL, {}),
    "samo": (samo.SAMO, {}),
    "previous": (samo.SAMO, {"local": samo.PreviousGradient()}),
}
DETERMINISTIC = [name for name in PRESETS if name != "samo"]


def on(device: torch.device, name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A problem with its model and data on a device."""
    monkeypatch.setattr(problems, "X", problems.X.to(device))
    monkeypatch.setattr(problems, "Y", problems.Y.to(device))
    case = problem(name)
    case.model.to(device)
    return case


def rng() -> dict[str, torch.Tensor]:
    return {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state(CUDA)}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model", ["plain", "batchnorm", "lstm", "branches", "tied", "running"])
@pytest.mark.parametrize("preset", DETERMINISTIC)
def test_equals_the_cpu(preset, model, method, monkeypatch):
    """In float64, two steps give the gradients, buffers and losses that the CPU gives."""
    make, options = PRESETS[preset]
    seen = []
    for device in (torch.device("cpu"), CUDA):
        case = on(device, model, monkeypatch)
        engine = make(case.model, TASKS, aggregator=METHODS[method](), **options)
        for _ in range(2):
            case.model.zero_grad()
            result = engine.backward(partial(case.losses, case.model))
        assert all(p.grad is None or p.grad.device == device for p in case.model.parameters())
        assert result.gramian is None or result.gramian.device.type == "cpu"
        seen.append(gradients(case.model) | dict(case.model.named_buffers()) | result.losses)
    moved = {n: None if t is None else t.cpu() for n, t in seen[1].items()}
    close(moved, seen[0], 1e-9)


@pytest.mark.parametrize("method", ["ls", "upgrad", "config"])
@pytest.mark.parametrize("model", ["plain", "dropout", "dropout_heads", "transformer", "lstm"])
def test_equals_the_reference(model, method, monkeypatch):
    """SAMO with the noise of the device's generator, and with the model's own dropout masks."""
    case = on(CUDA, model, monkeypatch)
    named = dict(case.model.named_parameters())
    size = sum(named[name].numel() for name in case.shared)

    def noise():
        generator = torch.Generator(CUDA).manual_seed(0)
        while True:
            yield torch.empty(size, dtype=torch.float64, device=CUDA).normal_(generator=generator)

    method_ = METHODS[method]()
    aggregate = (lambda m, _: m.sum(0)) if method == "ls" else lambda m, _: method_(m)
    torch.manual_seed(3)
    want, _ = reference.step(
        case, aggregate, torch.ones_like, rho=RHO, estimate="spsa", noise=noise()
    )
    torch.manual_seed(3)
    engine = samo.SAMO(case.model, TASKS, aggregator=METHODS[method](), rho=RHO)
    engine.backward(partial(case.losses, case.model))
    close({n: g for n, g in gradients(case.model).items() if g is not None}, want, 1e-8)


@pytest.mark.parametrize("model", ["dropout_heads", "transformer", "batchnorm", "running"])
@pytest.mark.parametrize("preset", PRESETS)
def test_leaves_what_one_natural_pass_leaves(preset, model, monkeypatch):
    """Both devices' random states, buffers and parameters; also if a call of the closure fails."""
    make, options = PRESETS[preset]

    def fresh():
        case = on(CUDA, model, monkeypatch)
        torch.manual_seed(8)
        return case, make(case.model, TASKS, aggregator="mgda", **options)

    natural, _ = fresh()
    natural.losses(natural.model, TASKS)
    want = {**natural.model.state_dict(), **rng()}
    calls: list[int] = []

    def losses(case, fails, tasks):
        calls.append(len(calls))
        values = case.losses(case.model, tasks)
        if calls[-1] == fails:
            raise KeyboardInterrupt
        return values

    case, engine = fresh()
    engine.backward(partial(losses, case, None))
    same({**case.model.state_dict(), **rng()}, want)
    for fails in range(1, len(calls)):
        calls.clear()
        case, engine = fresh()
        with pytest.raises(KeyboardInterrupt):
            engine.backward(partial(losses, case, fails))
        same({**case.model.state_dict(), **rng()}, want)
        assert all(p.grad is None for p in case.model.parameters())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("fault", ["natural", "perturbed"])
def test_non_finite(preset, fault, monkeypatch):
    """What is looked at later on a device is still blamed on its task and stage."""
    make, options = PRESETS[preset]
    if (preset, fault) == ("erm", "perturbed"):
        return
    case, calls = on(CUDA, "plain", monkeypatch), list[str]()
    before = {n: p.detach().clone() for n, p in case.model.named_parameters()}

    def losses(tasks):
        values = case.losses(case.model, tasks)
        calls.append("natural" if not calls else "perturbed")
        if calls[-1] == fault and torch.is_grad_enabled() and "b" in values:
            values["b"] = values["b"] * torch.nan
        return values

    engine = make(case.model, TASKS, aggregator="uw", **options)
    with pytest.raises(samo.NonFiniteError, match=f"{fault} loss of task 'b'"):
        engine.backward(losses)
    same(dict(case.model.named_parameters()), before)
    assert all(p.grad is None for p in case.model.parameters())


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("aggregator", ["ls", "uw", "mgda", "config"])
def test_grad_scaler(aggregator, preset):
    """In fp16, near what float32 gives; too large a scale overflows, is halved, and fits."""
    make, options = PRESETS[preset]
    x = torch.linspace(-2, 2, 28, device=CUDA).view(7, 4).sin()
    plain = Heads().to(CUDA)
    make(plain, TASKS, aggregator=aggregator, **options).backward(partial(plain.losses, x=x))
    model: Any = Heads().to(CUDA)
    engine = make(model, TASKS, aggregator=aggregator, **options)

    def losses(tasks):
        with torch.autocast("cuda", torch.float16):
            return model.losses(tasks, x)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = GradScaler("cuda", init_scale=2.0**30, backoff_factor=2.0**-8)
    overflowed = []
    for _ in range(4):
        optimizer.zero_grad()
        overflowed.append(engine.backward(losses, grad_scaler=scaler).overflowed)
        scaler.step(optimizer)
        scaler.update()
    assert overflowed[0]
    assert not overflowed[-1]
    assert scaler.get_scale() == 2.0 ** (30 - 8 * sum(overflowed))
    if preset != "previous":  # which has another gradient at a later step
        # which scaler.step has unscaled
        got = torch.cat([g.flatten() for g in gradients(model).values()])
        want = torch.cat([g.flatten() for g in gradients(plain).values()])
        assert torch.cosine_similarity(got, want, dim=0) > 0.9


@pytest.mark.parametrize("aggregator", ["uw", "gradvac", "pcgrad", "graddrop", "famo"])
def test_continues_from_a_file(aggregator, monkeypatch):
    """A state that was saved on a device, and read to the CPU, continues there bit for bit."""
    case = on(CUDA, "plain", monkeypatch)
    engine: Any = samo.SAMO(case.model, TASKS, aggregator=aggregator)
    closure = partial(case.losses, case.model)
    engine.backward(closure)
    file = io.BytesIO()
    torch.save(engine.state_dict(), file)
    file.seek(0)
    case.model.zero_grad()
    engine.backward(closure)
    want = gradients(case.model)
    again: Any = samo.SAMO(case.model, TASKS, aggregator=aggregator, seed=9)
    again.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    case.model.zero_grad()
    again.backward(closure)
    same(gradients(case.model), want)


@pytest.mark.parametrize("preset", ["erm", "gsam", "samo"])
def test_memory(preset):
    """Where weights are known first, memory does not grow with the number of tasks."""
    make, options = PRESETS[preset]
    tasks = [f"t{i}" for i in range(8)]
    model = Heads(nn.Linear(2000, 2000), width=2000, tasks=tasks).to(CUDA)
    m, x = 2000 * 2001, torch.randn(2, 2000, device=CUDA)
    peaks = {}
    for aggregator in ("ls", "mgda"):
        engine = make(model, tasks, aggregator=aggregator, **options)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        engine.backward(partial(model.losses, x=x))
        peaks[aggregator] = (torch.cuda.max_memory_allocated() - before) / (4 * m)
        model.zero_grad()
        del engine
    assert peaks["mgda"] - peaks["ls"] > 5  # in units of m: 8 rows, or one sum


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("aggregator", ["ls", "mgda", "fairgrad"])
def test_waits_for_the_device_once(aggregator, preset):
    """A step brings numbers to the host once: the Gramian, with all that must be finite."""
    make, options = PRESETS[preset]
    model, x = Heads().to(CUDA), torch.randn(7, 4, device=CUDA)
    engine = make(model, TASKS, aggregator=aggregator, **options)
    engine.backward(partial(model.losses, x=x))  # which starts up libraries, and finds the parts
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            engine.backward(partial(model.losses, x=x))
        finally:
            torch.cuda.set_sync_debug_mode(mode)
    waits = [str(w.message) for w in caught if "synchronizing CUDA operation" in str(w.message)]
    assert len(waits) == 1
