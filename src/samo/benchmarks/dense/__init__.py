"""Dense prediction on Cityscapes and NYUv2, in the files of the MTAN authors."""

from ._cityscapes import CLASSES as CITYSCAPES_CLASSES
from ._cityscapes import Cityscapes
from ._dense import DensePrediction
from ._nyuv2 import CLASSES as NYUV2_CLASSES
from ._nyuv2 import NYUv2

__all__ = ["CITYSCAPES_CLASSES", "NYUV2_CLASSES", "Cityscapes", "DensePrediction", "NYUv2"]
