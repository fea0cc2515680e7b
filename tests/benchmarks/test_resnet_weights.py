"""ResNet-18 with weights from a file, compared with a forward pass by torchvision's names."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from samo.benchmarks.networks import OfficeHomeResNet18


def torchvision_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in torchvision's file of ResNet-18."""

    def norm(name: str, n: int) -> dict[str, tuple[int, ...]]:
        parts = ("weight", "bias", "running_mean", "running_var")
        return {f"{name}.{part}": (n,) for part in parts}

    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7), **norm("bn1", 64)}
    inputs = 64
    for layer, n in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            here = f"layer{layer}.{block}"
            shapes |= {f"{here}.conv1.weight": (n, inputs, 3, 3), **norm(f"{here}.bn1", n)}
            shapes |= {f"{here}.conv2.weight": (n, n, 3, 3), **norm(f"{here}.bn2", n)}
            if layer > 1 and block == 0:
                shapes |= {f"{here}.downsample.0.weight": (n, inputs, 1, 1)}
                shapes |= norm(f"{here}.downsample.1", n)
            inputs = n
    return shapes | {"fc.weight": (1000, 512), "fc.bias": (1000,)}


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(4)
    shapes = torchvision_shapes()
    return {n: 0.05 * torch.randn(s, generator=generator).abs() for n, s in shapes.items()}


def naive_resnet(x: Tensor, w: Mapping[str, Tensor]) -> Tensor:
    """ResNet-18 up to its features, in evaluation, from the tensors of torchvision's file."""

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            w[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = norm(F.conv2d(x, w["conv1.weight"], stride=2, padding=3), "bn1").clamp(min=0)
    x = F.max_pool2d(x, 3, 2, 1)
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            here, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = F.conv2d(x, w[f"{here}.conv1.weight"], stride=stride, padding=1)
            y = norm(y, f"{here}.bn1").clamp(min=0)
            y = norm(F.conv2d(y, w[f"{here}.conv2.weight"], padding=1), f"{here}.bn2")
            if f"{here}.downsample.0.weight" in w:
                x = F.conv2d(x, w[f"{here}.downsample.0.weight"], stride=stride)
                x = norm(x, f"{here}.downsample.1")
            x = (x + y).clamp(min=0)
    return x.flatten(2).mean(2)


@pytest.mark.parametrize("legacy", [False, True])
def test_weights_of_torchvision(weights: dict[str, Tensor], legacy: bool, tmp_path: Path) -> None:
    file = tmp_path / "resnet18.pth"
    # The first file that torchvision published is of the old format and holds parameters.
    content = {n: nn.Parameter(t) if legacy else t for n, t in weights.items()}
    if not legacy:
        content["bn1.num_batches_tracked"] = torch.tensor(7)
    torch.save(content, file, _use_new_zipfile_serialization=not legacy)
    network = OfficeHomeResNet18(["Art"], weights=file).eval()
    x = torch.rand(2, 3, 64, 64)
    backbone, shared, *_ = cast(nn.Sequential, network.trunk)
    torch.testing.assert_close(backbone(x), naive_resnet(x, weights), rtol=1e-4, atol=1e-5)
    assert all(p.requires_grad for p in network.parameters())
    assert isinstance(shared, nn.Linear)
    assert torch.equal(shared.bias, torch.full((512,), 0.1))
    assert shared.weight.std().item() == pytest.approx(0.005, rel=0.02)


def cut_short(weights: Mapping[str, Tensor], file: Path) -> None:
    torch.save(weights, file)
    file.write_bytes(file.read_bytes()[:-99])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda w, f: torch.save({n: t for n, t in w.items() if n != "bn1.bias"}, f),
            "does not fit ResNetTrunk: bn1.bias is missing.",
        ),
        (
            lambda w, f: torch.save(w | {"layer5.0.conv1.weight": w["bn1.bias"]}, f),
            "layer5.0.conv1.weight is unexpected",
        ),
        (
            lambda w, f: torch.save(w | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, f),
            "conv1.weight has shape (64, 1, 7, 7), but must have (64, 3, 7, 7)",
        ),
        (
            lambda w, f: torch.save({f"module.{n}": t for n, t in w.items()}, f),
            "and 199 more faults.",
        ),
        (lambda w, f: torch.save([1, 2], f), "must contain a state_dict: a dictionary of tensors"),
        (
            lambda w, f: torch.save({"model": w}, f),
            "must contain a state_dict: a dictionary of tensors",
        ),
        (lambda w, f: f.write_bytes(b"not weights"), "cannot be read as weights"),
        (lambda w, f: f.write_bytes(b""), "cannot be read as weights"),
        (
            lambda w, f: f.write_bytes(pickle.dumps(Path("a pickle"), protocol=2)),
            "cannot be read as weights: Weights only load failed",
        ),
        (cut_short, "cannot be read as weights"),
    ],
)
def test_invalid_weight_files_raise_errors(
    weights: dict[str, Tensor], spoil: Callable[..., object], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "resnet18.pth"
    spoil(dict(weights), file)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        OfficeHomeResNet18(["Art"], weights=file)
    assert str(file) in str(caught.value)


def test_a_missing_weight_file_raises_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nothing\.pth.*resnet18-f37072fd"):
        OfficeHomeResNet18(["Art"], weights=tmp_path / "nothing.pth")
