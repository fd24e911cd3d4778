"""batch_norm_relu in Triton: the house's norm kernels with their ReLU, differentiated from what came out."""

from ..common.norm.triton_kernels import fake_backward, fake_forward, norm_backward, norm_forward
from ..common.triton_kernels import register


def batch_norm_relu_forward(z, running_power, weight, residual, batches, training, momentum, eps, c):
    """The registered operator: out, rstd ``[C]`` float32. z dense, residual in its strides."""
    return norm_forward(z, running_power, weight, residual, batches, training, momentum, eps, c)


def batch_norm_relu_summed_forward(z, sums, running_power, weight, residual, batches, momentum, eps, c):
    """The registered operator: `batch_norm_relu_forward` in training where the sums of |z|^2 per channel are known: one
    launch, and one pass over ``z`` less."""
    return norm_forward(z, running_power, weight, residual, batches, True, momentum, eps, c, sums)


def batch_norm_relu_backward(grad, out, z, weight, residual, rstd, training, c):
    """The registered operator: gradients of z, residual and weight, the last two of no elements where not asked for."""
    return norm_backward(grad, out, z, weight, residual, rstd, training, c)


SCHEMAS = {
    batch_norm_relu_forward: "(Tensor z, Tensor(a!)? running_power, Tensor? weight, Tensor? residual, Tensor? batches, "
    "bool training, float momentum, float eps, float c) -> (Tensor, Tensor)",
    batch_norm_relu_backward: "(Tensor grad, Tensor out, Tensor? z, Tensor? weight, Tensor? residual, Tensor rstd, "
    "bool training, float c) -> (Tensor, Tensor, Tensor)",
}
FAKES = {
    batch_norm_relu_forward: lambda z, *_: fake_forward(z),
    batch_norm_relu_backward: lambda grad, out, z, weight, residual, *_: fake_backward(grad, weight, residual),
}
register(SCHEMAS, FAKES)
# Triton's alone, as the convolution that leaves sums is
SUMMED = {
    batch_norm_relu_summed_forward: "(Tensor z, Tensor sums, Tensor(a!)? running_power, Tensor? weight, Tensor? "
    "residual, Tensor? batches, float momentum, float eps, float c) -> (Tensor, Tensor)",
}
register(SUMMED, {batch_norm_relu_summed_forward: lambda z, *_: fake_forward(z)})
