"""Tests the examples: they run, they learn, and each is included in a how-to page."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PAGES = sorted((ROOT / "docs" / "how-to").glob("*.md"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Returns a function that runs an example's main function, with examples/ on the path."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    with torch.random.fork_rng():
        yield lambda name, **options: runpy.run_path(str(ROOT / f"examples/{name}.py"))["main"](
            **options
        )


def better(found: Mapping[str, float], digit: float, turn: float) -> None:
    """Asserts minimum accuracies in percent; guessing gives 10 and 25."""
    assert found["digit"] > digit
    assert found["turn"] > turn


def test_plain_pytorch(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    better(run("plain_pytorch", epochs=1), 30, 45)
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("epoch ") for line in lines] == [True, False]
    assert lines[-1].startswith("test accuracy: digit ")


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision(run: Any, precision: str) -> None:
    found = run("mixed_precision", epochs=1, precision=precision)
    better(found, 30, 45)
    assert (found["skipped"] > 0) is (precision == "float16")


def test_averaged_weights(run: Any) -> None:
    found = run("averaged_weights", epochs=2)
    assert list(found) == ["raw", "ema"]
    for scores in found.values():
        better(scores, 50, 60)


def test_own_aggregator(run: Any) -> None:
    for found in run("own_aggregator", epochs=1).values():
        better(found, 30, 45)


def test_own_estimator(run: Any) -> None:
    """The loss rises more along estimated than random directions, and most along exact ones."""
    rises = list(run("own_estimator", epochs=1).values())
    assert rises == sorted(rises)
    assert rises[1] > 2 * abs(rises[0])


def test_vision_backbone(run: Any) -> None:
    found = [run("vision_backbone", epochs=1, checkpointing=again) for again in (False, True)]
    assert found[0]["turn"] > 40
    assert found[0] == found[1]


@pytest.mark.slow
def test_vision_backbone_compiled(run: Any) -> None:
    better(run("vision_backbone", epochs=5, compiled=True), 30, 50)
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore")
def test_graph_network(run: Any) -> None:
    pytest.importorskip("torch_geometric")
    found = run("graph_network", epochs=2)
    assert found["shape"] > 0.4
    assert found["size"] < 0.8


@pytest.mark.filterwarnings("ignore")
def test_transformer_heads(run: Any) -> None:
    pytest.importorskip("transformers")
    found = run("transformer_heads", epochs=1, checkpointing=True)
    assert found["who"] > 40
    assert found["when"] > 70


@pytest.mark.filterwarnings("ignore")
def test_lightning_trainer(run: Any, tmp_path: Path) -> None:
    """The checkpoint contains the engine's state, and loading restores it."""
    pytest.importorskip("lightning")
    better(run("lightning_trainer", epochs=1, precision="bf16-mixed", out=tmp_path), 30, 45)
    (path,) = tmp_path.rglob("*.ckpt")
    saved = torch.load(path, weights_only=True)["engine"]
    module = runpy.run_path(str(ROOT / "examples" / "lightning_trainer.py"))["MultiTask"]()
    module.on_load_checkpoint({"engine": saved})
    assert repr(module.engine.state_dict()) == repr(saved)


@pytest.mark.filterwarnings("ignore")
def test_fabric_loop(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    better(run("fabric_loop", epochs=1, out=str(tmp_path / "last.ckpt")), 30, 45)
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["engine"].keys() >= {"streams", "aggregator", "partition"}


@pytest.mark.filterwarnings("ignore")
def test_accelerate_loop(run: Any, tmp_path: Path) -> None:
    state = pytest.importorskip("accelerate.state")
    try:
        better(run("accelerate_loop", epochs=1, precision="bf16", out=str(tmp_path)), 30, 45)
    finally:
        state.AcceleratorState._reset_state(reset_partial_state=True)
    saved = torch.load(tmp_path / "custom_checkpoint_0.pkl", weights_only=True)
    assert saved.keys() >= {"streams", "aggregator", "partition"}


def test_every_example_is_short_and_on_a_page() -> None:
    """Each is under 80 lines and on a page; each page names the extras that it needs."""
    included = set()
    for page in PAGES:
        text = page.read_text()
        included |= {
            (page.parent / path).resolve() for path in re.findall(r"literalinclude} (\S+)", text)
        }
        assert re.search(r"^Extras: ", text, re.MULTILINE), page
    assert included == set(EXAMPLES)
    for example in EXAMPLES:
        assert len(example.read_text().splitlines()) < 80, example
