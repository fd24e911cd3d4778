"""Small made-up networks: a residual one in the manner of torchvision's, real and complex."""

import torch
from torch import nn

import cvkernels.nn as cnn


class Block(nn.Module):
    """A residual block whose layers are given: two convolutions, two norms, one activation used twice."""

    def __init__(self, conv, norm, act, channels=4, stride=1):
        super().__init__()
        self.conv1, self.bn1 = conv(channels, channels, 3, stride, 1, bias=False), norm(channels)
        self.conv2, self.bn2 = conv(channels, channels, 3, 1, 1, bias=False), norm(channels)
        self.relu = act()
        self.downsample = None
        if stride != 1:
            self.downsample = nn.Sequential(conv(channels, channels, 1, stride, bias=False), norm(channels))

    def forward(self, x):
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Stem, two blocks, pooling, head; flattened as torchvision does, with ``torch.flatten(x, 1)``, if not told how."""

    def __init__(self, conv=nn.Conv2d, norm=nn.BatchNorm2d, act=nn.ReLU, pools=None, linear=nn.Linear, flatten=None):
        super().__init__()
        pools = pools or (nn.MaxPool2d, nn.AdaptiveAvgPool2d)
        self.conv1, self.bn1, self.relu = conv(3, 4, 3, padding=1, bias=False), norm(4), act()
        self.maxpool = pools[0](3, 2, 1)
        self.layer1 = nn.Sequential(Block(conv, norm, act), Block(conv, norm, act, stride=2))
        self.avgpool, self.fc = pools[1](1), linear(4, 5)
        self.flatten = flatten or (lambda x: torch.flatten(x, 1))

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        return self.fc(self.flatten(self.avgpool(self.layer1(x))))


def complex_resnet(**parts):
    """A ResNet of which every layer obeys; ``parts`` replaces some."""
    pools = (cnn.MagnitudeMaxPool2d, cnn.ComplexAdaptiveAvgPool2d)
    layers = dict(
        conv=cnn.ComplexConv2d, norm=cnn.MagnitudeBatchNorm2d, act=cnn.MagnitudeReLU, linear=cnn.ComplexLinear
    )
    return ResNet(**{**layers, "pools": pools, "flatten": lambda x: x.flatten(-3), **parts})
