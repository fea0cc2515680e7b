"""The published networks: their sizes, their computation, and the cost of one task."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import samo
from samo.benchmarks.networks import (
    CelebACNN,
    LeNet,
    OfficeHomeResNet18,
    ResNet18,
    SegNet,
    SegNetMTAN,
)

NYUV2 = {"segmentation": 13, "depth": 1, "normals": 3}
CITYSCAPES = {"segmentation": 7, "depth": 1}
ATTRIBUTES = [f"attribute {i}" for i in range(40)]


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("make", "parameters", "in_heads"),
    [
        # Counted from the authors' networks.
        (lambda: SegNet(NYUV2), 25_055_185, 111_889),
        (lambda: SegNetMTAN(NYUV2), 44_229_073, 111_889),
        (lambda: SegNet(CITYSCAPES), 25_017_672, 2 * 36_928 + 65 * 8),
        (lambda: SegNetMTAN(CITYSCAPES), 41_206_984, 2 * 36_928 + 65 * 8),
        (lambda: CelebACNN(ATTRIBUTES), 5_197_160, 40 * 513),
        # torchvision's ResNet-18 has 11,689,512 parameters, 513,000 of them in its last layer.
        (
            lambda: ResNet18(["left", "right"]),
            11_689_512 - 513_000 - 2 * 64 * 49 + 513 * 100 - 100 + 100 + 2 * 1_010,
            2 * 1_010,
        ),
        (
            lambda: OfficeHomeResNet18(["Art", "Clipart", "Product", "Real_World"]),
            11_689_512 - 513_000 + 513 * 512 + 2 * 512 + 4 * 513 * 65,
            4 * 513 * 65,
        ),
        (
            lambda: LeNet(["left", "right"]),
            10 * 82 + 20 * 251 + 50 * 501 + 2 * 10 * 51,
            2 * 10 * 51,
        ),
    ],
)
def test_parameters(make: Callable[[], nn.Module], parameters: int, in_heads: int) -> None:
    with torch.device("meta"):
        network = make()
    assert size(network) == parameters
    assert isinstance(network.heads, nn.ModuleDict)
    assert size(network.heads) == in_heads


SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, tuple[int, ...]]]] = {
    "LeNet": (
        lambda: LeNet(["left", "right"], width=3),
        (1, 36, 36),
        {"left": (10,), "right": (10,)},
    ),
    "LeNet, another size": (
        lambda: LeNet(["a"], classes=4, channels=3, side=20, width=2),
        (3, 20, 20),
        {"a": (4,)},
    ),
    "ResNet18": (
        lambda: ResNet18(["left", "right"], width=4),
        (1, 36, 36),
        {"left": (10,), "right": (10,)},
    ),
    "OfficeHomeResNet18": (
        lambda: OfficeHomeResNet18(["Art", "Product"], width=4),
        (3, 64, 64),
        {"Art": (65,), "Product": (65,)},
    ),
    "CelebACNN": (
        lambda: CelebACNN(ATTRIBUTES, width=2),
        (3, 64, 64),
        dict.fromkeys(ATTRIBUTES, ()),
    ),
    "SegNet": (
        lambda: SegNet(NYUV2, width=2),
        (3, 32, 64),
        {task: (n, 32, 64) for task, n in NYUV2.items()},
    ),
    "SegNetMTAN": (
        lambda: SegNetMTAN(NYUV2, width=2),
        (3, 32, 64),
        {task: (n, 32, 64) for task, n in NYUV2.items()},
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_only_modules_of_requested_tasks_are_evaluated(name: str) -> None:
    make, image, shapes = SMALL[name]
    torch.manual_seed(0)
    network = make().eval()
    x = torch.rand(3, *image)
    called: list[nn.Module] = []
    for module in network.modules():
        if not any(module.children()):
            module.register_forward_hook(lambda module, *_: called.append(module))
    everything = network(x, list(shapes))
    assert {task: y.shape[1:] for task, y in everything.items()} == shapes
    assert {len(y) for y in everything.values()} == {3}
    # Each parameter is used when all tasks are asked for.
    assert {id(p) for m in called for p in m.parameters()} == {id(p) for p in network.parameters()}

    for task in list(shapes)[:3]:
        called.clear()
        alone = network(x, [task])
        assert list(alone) == [task]
        torch.testing.assert_close(alone[task], everything[task], rtol=1e-5, atol=1e-6)
        # What is called is what the task's output depends on, and each layer once.
        gradients = torch.autograd.grad(
            alone[task].sum(), list(network.parameters()), allow_unused=True
        )
        reached = {
            id(p)
            for p, gradient in zip(network.parameters(), gradients, strict=True)
            if gradient is not None
        }
        used = [id(p) for m in called for p in m.parameters()]
        assert sorted(used) == sorted(reached)
    assert not network(x, [])


def test_the_cost_of_one_task_of_mtan_is_the_trunk_and_its_own_attention() -> None:
    """Counts multiplications layer by layer, as the published table of channels gives them."""
    height, width, f = 32, 64, (4, 8, 16, 32, 32)
    d = (f[0], *f[:-1])

    def at(level: int) -> int:
        return height * width // 4**level

    trunk = sum(
        at(i) * 9 * ((3, *f)[i] * f[i] + (1 + (i > 1)) * f[i] ** 2)  # encoder
        + at(i) * 9 * (f[i] * d[i] + (1 + (i > 1)) * d[i] ** 2)  # decoder
        for i in range(5)
    )
    attention = sum(
        at(i) * (((1 + (i > 0)) * f[i] + f[i]) * f[i] + 9 * f[i] * (*f[1:], f[-1])[i])
        + at(i) * (9 * f[i] * d[i] + (f[i] + d[i] + d[i]) * d[i])
        for i in range(5)
    )

    def head(channels: int) -> int:
        return at(0) * (9 * f[0] ** 2 + f[0] * channels)

    x = torch.rand(1, 3, height, width)
    network = SegNetMTAN(NYUV2, width=f[0]).eval()
    for tasks in [["segmentation"], ["normals"], ["depth", "segmentation"], list(NYUV2)]:
        expected = trunk + sum(attention + head(NYUV2[task]) for task in tasks)
        assert flops(network, x, tasks) == 2 * expected
    assert flops(SegNet(NYUV2, width=f[0]).eval(), x, ["depth"]) == 2 * (trunk + head(1))


def flops(network: nn.Module, x: Tensor, tasks: list[str]) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(x, tasks)
    return counter.get_total_flops()


def test_the_cost_of_the_other_convolutional_networks() -> None:
    """The cost depends on the places of pooling, the number of parameters does not."""
    celeba = (
        64**2 * 9 * 3 * 64
        + 32**2 * 9 * (64 * 128 + 128 * 128)
        + 16**2 * 9 * (128 * 256 + 256 * 256)
        + 8**2 * 9 * (256 * 512 + 512 * 512)
        + 2 * 512 * 512
    )
    x = torch.rand(1, 3, 64, 64)
    assert flops(CelebACNN(ATTRIBUTES).eval(), x, ATTRIBUTES) == 2 * (celeba + 40 * 512)
    assert flops(CelebACNN(ATTRIBUTES).eval(), x, ATTRIBUTES[:3]) == 2 * (celeba + 3 * 512)
    lenet = 28**2 * 81 * 10 + 10**2 * 25 * 10 * 20 + 500 * 50
    network = LeNet(["left", "right"])
    assert flops(network, torch.rand(1, 1, 36, 36), ["left"]) == 2 * (lenet + 50 * 10)


def test_mtan_computes_what_its_paper_describes() -> None:
    """Each step written out with the network's own layers, after MTAN's description."""
    torch.manual_seed(1)
    n = SegNetMTAN(CITYSCAPES, width=2).double().eval()
    x = torch.rand(2, 3, 32, 32).double()
    trunk: Any = n.trunk
    first, last, where, pooled = [], [], [], x
    for i in range(5):
        first.append(trunk.entrances[i](pooled))
        last.append(trunk.encoder[i](first[i]))
        pooled, indices = nn.MaxPool2d(2, 2, return_indices=True)(last[i])
        where.append(indices)
    unpooled, up = {}, {}
    y = pooled
    for i in (4, 3, 2, 1, 0):
        unpooled[i] = nn.MaxUnpool2d(2, 2)(y, where[i])
        y = up[i] = trunk.decoder[i](unpooled[i])
    for task in CITYSCAPES:
        masks: Any = n.masks[task]
        a = masks.encoder[0](first[0]) * last[0]
        h = F.max_pool2d(n.encoder_links[0](a), 2)
        for i in (1, 2, 3, 4):
            a = masks.encoder[i](torch.cat((first[i], h), 1)) * last[i]
            h = F.max_pool2d(n.encoder_links[i](a), 2)
        for i in (4, 3, 2, 1, 0):
            wide = nn.UpsamplingBilinear2d(scale_factor=2)(h)  # corners aligned
            wide = n.decoder_links[i](wide)
            h = masks.decoder[i](torch.cat((unpooled[i], wide), 1)) * up[i]
        torch.testing.assert_close(n(x, [task])[task], n.heads[task](h))
    alone = SegNet(CITYSCAPES, width=2).double().eval()
    alone.trunk.load_state_dict(n.trunk.state_dict())
    alone.heads.load_state_dict(n.heads.state_dict())
    torch.testing.assert_close(alone(x, ["depth"])["depth"], n.heads["depth"](y))


def test_initialisation_of_segnet() -> None:
    torch.manual_seed(2)
    for network in (SegNet(NYUV2, width=16), SegNetMTAN(NYUV2, width=16)):
        for module in network.modules():
            if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
                outputs, inputs, *kernel = module.weight.shape
                fans = (inputs + outputs) * kernel[0] * kernel[1]
                assert module.weight.std().item() == pytest.approx((2 / fans) ** 0.5, rel=0.1)
            if isinstance(module, nn.Conv2d):
                assert module.bias is not None
                assert not module.bias.any()


def test_the_partition_of_mtan_detected_and_declared() -> None:
    def shared(**declared: Any) -> int:
        torch.manual_seed(3)
        network = SegNetMTAN(CITYSCAPES, width=1)
        own = dict(network.heads.items()) if declared.pop("heads") else None
        engine = samo.ERM(network, list(CITYSCAPES), aggregator="ls", own=own)
        x = torch.rand(2, 3, 32, 32)
        engine.backward(lambda tasks: {t: y.square().mean() for t, y in network(x, tasks).items()})
        return sum(p.numel() for p in engine._setting.partition.shared)

    network = SegNetMTAN(CITYSCAPES, width=1)
    assert shared(heads=True) == size(network) - size(network.heads)
    assert shared(heads=False) == size(network) - size(network.heads) - size(network.masks)


def test_segnet_requires_multiples_of_32() -> None:
    with pytest.raises(ValueError, match="must be multiples of 32; found 32 × 48"):
        SegNet({"depth": 1}, width=1)(torch.rand(1, 3, 32, 48), ["depth"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LeNet([]), "tasks must be at least one name, each once; found []"),
        (lambda: CelebACNN(["a", "b", "a"]), "each once; found ['a', 'b', 'a']"),
        (lambda: LeNet(["a"], side=19), "side must be at least 20; found 19"),
        (lambda: LeNet(["a"], classes=0), "classes must be at least 1; found 0"),
        (lambda: ResNet18(["a"], width=0), "width must be at least 1; found 0"),
        (lambda: SegNetMTAN({"depth": 0}), "depth must be at least 1; found 0"),
    ],
)
def test_invalid_sizes_raise_errors(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()
