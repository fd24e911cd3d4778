"""Images as tensors, read once, split once and for all between the defender and the attacker.

sets.py     which sets there are, and `load`
cifar.py    CIFAR-10 and CIFAR-100 through torchvision's readers and checksums
pictures.py CelebA, CUB-200-2011 and any folder of images, decoded once into a file of bytes (cache.py)
deal.py     six parts: each side has its own train, validation (10 % of its training half) and test images
augment.py  crop and flip of a whole batch, each sample with its own draw
"""

from experiments.data.images import Data, DataError, Images, Side, to_input
from experiments.data.sets import SETS, load

__all__ = ["SETS", "Data", "DataError", "Images", "Side", "load", "to_input"]
