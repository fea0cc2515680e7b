"""Dense prediction on Cityscapes and NYUv2, in the MTAN authors' files."""

from ._cityscapes import CLASSES as CITYSCAPES_CLASSES
from ._cityscapes import Cityscapes
from ._dense import DensePrediction
from ._layout import DEPTH, IMAGE, NORMALS, SEGMENTATION, WHOLE, Window
from ._losses import depth_loss, normals_loss, segmentation_loss
from ._nyuv2 import CLASSES as NYUV2_CLASSES
from ._nyuv2 import NYUv2

__all__ = [
    "CITYSCAPES_CLASSES",
    "DEPTH",
    "IMAGE",
    "NORMALS",
    "NYUV2_CLASSES",
    "SEGMENTATION",
    "WHOLE",
    "Cityscapes",
    "DensePrediction",
    "NYUv2",
    "Window",
    "depth_loss",
    "normals_loss",
    "segmentation_loss",
]
