"""The networks of the published benchmarks, layer for layer.

Each is called as ``network(x, tasks)`` and returns the outputs by task, without evaluating modules
that only other tasks need. The prediction heads are in ``network.heads``, by task; the literature
counts everything else as shared. The default widths are the published ones.
"""

from ._celeba import CelebACNN
from ._lenet import LeNet
from ._message_passing import CompleteGraphs, MessagePassing, require_graph_extra
from ._mtan import SegNetMTAN
from ._resnet import OfficeHomeResNet18, ResNet18
from ._segnet import SegNet
from ._shared_trunk import SharedTrunk

__all__ = [
    "CelebACNN",
    "CompleteGraphs",
    "LeNet",
    "MessagePassing",
    "OfficeHomeResNet18",
    "ResNet18",
    "SegNet",
    "SegNetMTAN",
    "SharedTrunk",
    "require_graph_extra",
]
