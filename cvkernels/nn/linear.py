"""Complex linear layer."""

from torch import Tensor

from .. import functional as F
from .weight import ComplexWeight, positive


class ComplexLinear(ComplexWeight):
    """`cvkernels.functional.linear` with its weight: a complex linear map without a bias.

    Args:
        in_features, out_features: as ``torch.nn.Linear``.
        bias: False; True is refused.
        weights: ``'complex'`` holds ``weight_re`` and ``weight_im``, ``'real'`` one ``weight`` that both parts see;
            each ``[out_features, in_features]``.
        device, dtype: of the parameters; a real floating-point dtype.
    Shape:
        planar ``[N, 2, in_features]`` or complex ``[N, in_features]`` -> the same form, ``out_features``.
    Raises:
        TypeError: a dtype that is not real floating point, sizes that are not ints.
        ValueError: ``bias=True``; an unknown name; sizes < 1.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = False, weights: str = "complex", device=None, dtype=None
    ):
        positive(in_features, "in_features")
        positive(out_features, "out_features")
        super().__init__((out_features, in_features), bias, weights, device, dtype)
        self.in_features, self.out_features = in_features, out_features

    def forward(self, z: Tensor) -> Tensor:
        """Planar ``[N, 2, I]`` or complex ``[N, I]`` to the same form."""
        return F.linear(z, self.kernel())

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, weights={self.weights!r}"
