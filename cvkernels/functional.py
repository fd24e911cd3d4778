"""The public functions: the index of the house."""

from .ops.avg_pool2d.function import adaptive_avg_pool2d, avg_pool2d
from .ops.batch_norm_relu.function import batch_norm_relu
from .ops.conv2d.function import conv2d
from .ops.dropout.function import dropout, dropout2d
from .ops.linear.function import linear
from .ops.magnitude_batch_norm.function import magnitude_batch_norm
from .ops.magnitude_max_pool2d.function import magnitude_max_pool2d
from .ops.magnitude_power.function import magnitude_power
from .ops.magnitude_relu.function import magnitude_relu
from .ops.pack_weights.function import pack_weights
from .ops.real_batch_norm_relu.function import real_batch_norm_relu
from .ops.rotate.function import rotate
from .ops.rotate_phase.function import rotate_phase
from .ops.unrotate.function import unrotate

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm_relu",
    "conv2d",
    "dropout",
    "dropout2d",
    "linear",
    "magnitude_batch_norm",
    "magnitude_max_pool2d",
    "magnitude_power",
    "magnitude_relu",
    "pack_weights",
    "real_batch_norm_relu",
    "rotate",
    "rotate_phase",
    "unrotate",
]
