"""The networks of the published benchmarks, layer for layer.

Each is called as ``network(x, tasks)`` and gives the outputs by task; what only other tasks need is
not evaluated. Each has its prediction heads in ``network.heads``, by task: everything else is what
the literature counts as shared. Published widths are the defaults; small ones are for tests.
"""

from ._celeba import CelebACNN
from ._lenet import LeNet
from ._mtan import SegNetMTAN
from ._resnet import OfficeHomeResNet18, ResNet18
from ._segnet import SegNet
from ._shared_trunk import SharedTrunk

__all__ = [
    "CelebACNN",
    "LeNet",
    "OfficeHomeResNet18",
    "ResNet18",
    "SegNet",
    "SegNetMTAN",
    "SharedTrunk",
]
