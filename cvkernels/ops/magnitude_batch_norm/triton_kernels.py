"""magnitude_batch_norm in Triton: the house's norm kernels without a ReLU."""

from ..common.norm.triton_kernels import fake_backward, fake_forward, norm_backward, norm_forward
from ..common.triton_kernels import register


def magnitude_batch_norm_forward(z, running_power, weight, batches, training, momentum, eps):
    """The registered operator: out, rstd ``[C]`` float32. z dense."""
    return norm_forward(z, running_power, weight, None, batches, training, momentum, eps)


def magnitude_batch_norm_backward(grad, z, weight, rstd, training):
    """The registered operator: gradients of z and, where there is one, of the weight. grad in the strides of z."""
    grad_z, _, grad_weight = norm_backward(grad, None, z, weight, None, rstd, training)
    return grad_z, grad_weight


SCHEMAS = {
    magnitude_batch_norm_forward: "(Tensor z, Tensor(a!)? running_power, Tensor? weight, Tensor? batches, "
    "bool training, float momentum, float eps) -> (Tensor, Tensor)",
    magnitude_batch_norm_backward: "(Tensor grad, Tensor z, Tensor? weight, Tensor rstd, bool training) "
    "-> (Tensor, Tensor)",
}
FAKES = {
    magnitude_batch_norm_forward: lambda z, *_: fake_forward(z),
    magnitude_batch_norm_backward: lambda grad, z, weight, *_: fake_backward(grad, weight, None)[::2],
}
register(SCHEMAS, FAKES)
