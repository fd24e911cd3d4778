"""The forms of one network, and the ways its encoder may end.

original  real, cut in three, nothing added
layers    original with the generator's extra layers at the encoder's end (the paper's "+layers")
noisy     original with noise added to the features that cross
complex   a complex processor between rotation and reverse rotation
"""

from torch import nn

from models.choices import FORMS, GENERATORS
from models.layers import REAL, complex_layers
from models.split import NoisyModel, OpenModel, PairModel, SplitModel

WIDE = 224  # channels of the authors' generator


def assemble(form, encoder, channels, processor, decoder, generator="relu", weights="complex", c=1.0, gamma=0.5,
             detach_b=False, both=False, **published):  # fmt: skip
    """One network in one of its forms.

    Args:
        form: one of `FORMS`.
        encoder: its stages, a list of real modules ending in a ReLU; `channels`: how many they give.
        processor: function of a vocabulary (`REAL`, or `complex_layers`) to a module.
        decoder: a real module.
        generator: one of `GENERATORS`, see `generator_end`; of the complex form. `'layers'` has the same extra layers,
            and the linear ones where the complex form beside it has none; the other forms never have any.
        weights, c: see `complex_layers`; the complex form only.
        gamma: size of the noise; the noisy form only.
        detach_b: see `SplitModel`.   both: a `PairModel`, which decodes both parts. The complex form only.
        published: detach_modulus, norm_power, batch_statistics of `complex_layers`; the complex form only.
    """
    if form not in FORMS:
        raise ValueError(f"`form` must be one of {', '.join(FORMS)}, got {form!r}")
    if generator not in GENERATORS:
        raise ValueError(f"`generator` must be one of {', '.join(GENERATORS)}, got {generator!r}")
    if form == "layers" and generator == "relu":
        generator = "linear"
    extra = generator_end(generator, channels) if form in ("layers", "complex") else []
    encoder = nn.Sequential(*encoder, *extra)
    if both and detach_b:
        raise ValueError("`detach_b` must be False where `both` parts are decoded: each image is trained on")
    if form == "complex":
        rotated = processor(complex_layers(weights, c, **published))
        return PairModel(encoder, rotated, decoder) if both else SplitModel(encoder, rotated, decoder, detach_b)
    if form == "noisy":
        return NoisyModel(encoder, processor(REAL), decoder, gamma)
    return OpenModel(encoder, processor(REAL), decoder)


def generator_end(kind, channels):
    """What stands between the encoder's last ReLU and the cloud: a list of modules, `[N, C, h, w]` -> the same.

    Args:
        kind: `'relu'`: nothing; `'linear'`: a 3x3 convolution without a bias; `'norm'`: that and batch norm; `'wide'`:
            the authors' generator, a residual block of 224 channels between a 3x3 and a 1x1 convolution, batch norm
            after each, no activation at its end. Its shape is from their code; the paper does not give it.
    """
    if kind == "relu":
        return []
    if kind == "wide":
        return [WideGenerator(channels)]
    linear = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    return [linear] if kind == "linear" else [linear, nn.BatchNorm2d(channels)]


class WideTrunk(nn.Module):
    """What the authors' generator and critic begin with, `[N, C, h, w]` -> `[N, WIDE, h, w]`, with their code's
    biases."""

    def __init__(self, channels):
        super().__init__()
        self.widen = nn.Sequential(nn.Conv2d(channels, WIDE, 3, padding=1), nn.BatchNorm2d(WIDE), nn.ReLU())
        self.first = nn.Sequential(nn.Conv2d(WIDE, WIDE, 3, padding=1), nn.BatchNorm2d(WIDE), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(WIDE, WIDE, 3, padding=1), nn.BatchNorm2d(WIDE))

    def forward(self, a):
        wide = self.widen(a)
        return (wide + self.second(self.first(wide))).relu()


class WideGenerator(WideTrunk):
    """The authors' generator, `[N, C, h, w]` -> `[N, C, h, w]`."""

    def __init__(self, channels):
        super().__init__(channels)
        self.narrow = nn.Sequential(nn.Conv2d(WIDE, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, a):
        return self.narrow(super().forward(a))
