"""ResNet-18, as used for Multi-MNIST and Office-Home."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from ._shared_trunk import SharedTrunk, check_sizes
from ._torchvision import load_weights


class ResNet18(SharedTrunk):
    """ResNet-18 for Multi-MNIST: from scratch, with a linear head for each task.

    The first convolution (7 × 7, stride 2) takes grey images; ResNet's last layer has 100 features,
    with ReLU; a head is ``Linear(100, 10)``. 11,223,560 parameters for two tasks. The network of
    F-MTL (Phan et al., arXiv:2211.13723) on the three Multi-MNIST sets, after Pareto MTL
    (arXiv:1912.12854). Convolutions have torchvision's initialisation (Kaiming normal, fan out),
    linear layers PyTorch's default.

    Takes images of shape ``[N, channels, H, W]`` and returns logits of shape ``[N, classes]``.

    Args:
        tasks: The names of the tasks.
        classes: The number of classes of each task.
        channels: The channels of an image.
        width: The channels of the first convolution.

    Raises:
        ValueError: If there is no task, or a size is below 1.

    Example:
        >>> import torch
        >>> network = ResNet18(["left", "right"], width=4)
        >>> network(torch.zeros(4, 1, 36, 36), ["right"])["right"].shape
        torch.Size([4, 10])
    """

    def __init__(
        self, tasks: Sequence[str], *, classes: int = 10, channels: int = 1, width: int = 64
    ) -> None:
        check_sizes(tasks, classes=classes, channels=channels, width=width)
        features = 100
        trunk = nn.Sequential(
            ResNetTrunk(channels, width), nn.Linear(8 * width, features), nn.ReLU()
        )
        super().__init__(trunk, {task: nn.Linear(features, classes) for task in tasks})


class OfficeHomeResNet18(SharedTrunk):
    """ResNet-18 for Office-Home: one additional shared layer, and a head for each domain.

    ResNet-18 without its last layer; a linear layer of 512 with batch normalisation, ReLU and
    dropout (p = 0.5); a head ``Linear(512, 65)`` per domain. 11,573,572 parameters for four
    domains. From the experiments of SAMO (arXiv:2507.07883), after LibMTL. The published results
    start from ImageNet's weights: give `weights`. Otherwise convolutions are initialised by Kaiming
    normal (fan out). The additional layer has N(0, 0.005²) weights and biases of 0.1; the heads
    have PyTorch's default initialisation.

    Takes images of shape ``[N, 3, H, W]`` and returns logits of shape ``[N, classes]``.

    Args:
        tasks: The names of the tasks (the domains).
        classes: The number of classes.
        weights: A file with torchvision's weights of ``resnet18``, for instance
            ``resnet18-f37072fd.pth``.
        width: The channels of the first convolution; `weights` need 64.

    Raises:
        ValueError: If there is no task, or a size is below 1.
        DataError: If the file does not exist, or does not contain weights of ResNet-18.

    Example:
        >>> import torch
        >>> network = OfficeHomeResNet18(["Art", "Clipart"], width=4)
        >>> network(torch.zeros(4, 3, 64, 64), ["Art"])["Art"].shape
        torch.Size([4, 65])
    """

    def __init__(
        self,
        tasks: Sequence[str],
        *,
        classes: int = 65,
        weights: str | Path | None = None,
        width: int = 64,
    ) -> None:
        check_sizes(tasks, classes=classes, width=width)
        backbone = ResNetTrunk(3, width)
        if weights is not None:
            load_weights(backbone, Path(weights), ignored=("fc.weight", "fc.bias"))
        features = 8 * width
        shared = nn.Linear(features, features)
        nn.init.normal_(shared.weight, std=0.005)
        nn.init.constant_(shared.bias, 0.1)
        trunk = nn.Sequential(
            backbone, shared, nn.BatchNorm1d(features), nn.ReLU(), nn.Dropout(0.5)
        )
        super().__init__(trunk, {task: nn.Linear(features, classes) for task in tasks})


class ResNetTrunk(nn.Module):
    """ResNet-18 up to its features (He et al., CVPR 2016), with torchvision's parameter names.

    A 7 × 7 convolution and a 3 × 3 max-pooling, both of stride 2; four layers of two blocks each,
    of 64, 128, 256 and 512 channels, which halve the size from the second on; the mean over the
    image.

    Args:
        channels: The channels of an image.
        width: The channels of the first convolution and layer.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _layer(width, width, stride=1)
        self.layer2 = _layer(width, 2 * width, stride=2)
        self.layer3 = _layer(2 * width, 4 * width, stride=2)
        self.layer4 = _layer(4 * width, 8 * width, stride=2)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Computes features, ``[N, 8 width]``, of images, ``[N, channels, H, W]``."""
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x.mean((2, 3))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        # An identity has no parameters, so it has no entry in the state dict.
        self.downsample = (
            nn.Identity()
            if stride == 1 and inputs == outputs
            else nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + cast(Tensor, self.downsample(x)))


def _layer(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(_Block(inputs, outputs, stride), _Block(outputs, outputs, stride=1))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
