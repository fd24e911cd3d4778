// Every operator of cvkernels: its schema, and nothing else. Kernels register themselves in cpu/<op>.cpp and
// cuda/<op>.cu.
//
// A feature is planar [N, 2, C, *], dense in one of the three layouts of common/planar.h; the Python side sees to that.
// What a kernel does not compute (a gradient nobody asked for) comes back as a tensor of no elements.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(cvkernels, m) {
  // (a + ib) e^{i theta}
  m.def("rotate_forward(Tensor a, Tensor b, Tensor theta) -> Tensor");
  m.def("rotate_backward(Tensor grad, Tensor? out, Tensor theta) -> (Tensor, Tensor, Tensor)");

  // z e^{i theta}
  m.def("rotate_phase_forward(Tensor z, Tensor theta) -> Tensor");
  m.def("rotate_phase_backward(Tensor grad, Tensor? out, Tensor theta) -> (Tensor, Tensor)");

  // Re(h e^{-i theta}); theta [N] or [N, K]
  m.def("unrotate_forward(Tensor h, Tensor theta) -> Tensor");
  m.def("unrotate_backward(Tensor grad, Tensor? h, Tensor theta) -> (Tensor, Tensor)");

  // reduce: 0 constant c, 1 mean modulus per sample and channel, 2 per channel, 3 of everything (the second output)
  m.def("magnitude_relu_forward(Tensor z, float c, int reduce) -> (Tensor, Tensor)");
  m.def(
      "magnitude_relu_backward(Tensor grad, Tensor z, Tensor mean, float c, int reduce, bool detach_modulus) -> "
      "Tensor");

  // z / sqrt(E|z|^2 + eps); batches: the count whose reciprocal replaces momentum. Second output: 1 / sqrt(E|z|^2 +
  // eps)
  m.def(
      "magnitude_batch_norm_forward(Tensor z, Tensor(a!)? running_power, Tensor? weight, Tensor? batches, bool "
      "training, "
      "float momentum, float eps) -> (Tensor, Tensor)");
  m.def(
      "magnitude_batch_norm_backward(Tensor grad, Tensor z, Tensor? weight, Tensor rstd, bool training) "
      "-> (Tensor, Tensor)");

  // magnitude_relu(norm(z) + residual, c); the backward reads z where there is a weight, else only what came out
  m.def(
      "batch_norm_relu_forward(Tensor z, Tensor(a!)? running_power, Tensor? weight, Tensor? residual, Tensor? batches, "
      "bool training, float momentum, float eps, float c) -> (Tensor, Tensor)");
  m.def(
      "batch_norm_relu_backward(Tensor grad, Tensor out, Tensor? z, Tensor? weight, Tensor? residual, Tensor rstd, "
      "bool training, float c) -> (Tensor, Tensor, Tensor)");

  // sums of |z|^2 per channel over batch and positions [C], float32 or wider: what processes add up before they divide
  m.def("magnitude_power_forward(Tensor z) -> Tensor");

  // relu(norm(x) * weight + bias + residual) of a real feature [N, C, *]; also the mean and 1 / sqrt(var + eps) used.
  // The backward's mask is out > 0. It gives the gradients of x, residual, weight and bias, in this order; the second
  // has no elements where there was no residual, the last two none without a weight. Frozen (training false), the
  // last two are what they are in training: sums over batch and positions of x^ g and of g.
  m.def(
      "real_batch_norm_relu_forward(Tensor x, Tensor(a!)? running_mean, Tensor(b!)? running_var, Tensor? weight, "
      "Tensor? bias, Tensor? residual, Tensor? batches, bool training, float momentum, float eps) -> "
      "(Tensor, Tensor, Tensor)");
  m.def(
      "real_batch_norm_relu_backward(Tensor grad, Tensor out, Tensor x, Tensor? weight, Tensor mean, Tensor rstd, "
      "bool training, bool has_residual) -> (Tensor, Tensor, Tensor, Tensor)");

  // What a convolution through torch reads: planes with the channel as their fastest axis, [P, N, C, H, W] with the
  // strides of [P, N, H, W, C]. form 0: (re, im); 1: (re, im, re + im); 2: (re - im, -re - im, im); 3: both parts in
  // one, [1, N, 2C, H, W]; 4 (its own transpose): one, [1, 2N, C, H, W], the
  // parts of a sample in turns. z is contiguous or channels-last. Backward: the transpose of that map, from the
  // gradients of the planes, each [N, C, H, W] channels-last, to a feature in either layout; 2's is the last step of a
  // Gauss product.
  m.def("conv_planes_forward(Tensor z, int form) -> Tensor");
  m.def("conv_planes_backward(Tensor[] grads, int form, bool channels_last) -> Tensor");

  // conv_planes_backward, and on what it writes magnitude_relu(y scale + residual, c): a norm of known statistics, the
  // residual and the ReLU after a convolution, while its result is in the cache. scale [C] float32 (float64 for such
  // planes), residual in the layout of the result. Its backward is not there: inference only.
  m.def(
      "conv_planes_relu_forward(Tensor[] planes, Tensor scale, Tensor? residual, int form, bool channels_last, "
      "float c) -> Tensor");

  // A complex convolution with a 3x3 kernel, stride 1 and padding of at most 2 by Winograd's filtering on a CPU. z
  // float32 or bfloat16 in any dense layout but the interleaved one; re and im (none: real weights) [O, I, 3, 3],
  // contiguous, float32, as their gradients are. back: the gradient of the features, z being that of the result and
  // padding 2 less the convolution's. layout of the result: 0 contiguous, 1 channels-last, 2 strides of
  // [N, 2, H, W, C]. lanes: floats of a vector, 0 for as many as the processor has. relu: as in
  // conv_planes_relu_forward. backward: the gradients of re and, if complex, of im.
  m.def(
      "conv_winograd_forward(Tensor z, Tensor re, Tensor? im, int[] padding, bool back, int layout, int lanes=0) -> "
      "Tensor");
  m.def(
      "conv_winograd_relu_forward(Tensor z, Tensor re, Tensor? im, int[] padding, Tensor scale, Tensor? residual, "
      "int layout, float c) -> Tensor");
  m.def(
      "conv_winograd_backward(Tensor grad, Tensor z, bool complex, int[] padding, int lanes=0) -> "
      "(Tensor, Tensor)");

  // W z of z [N, 2, I] and W = a + ib [O, I] on a CPU, float32, any strides (alike in a and b): [N, 2, O]. Backward: of
  // z, of a and of b, the last two together.
  m.def("linear_product_forward(Tensor z, Tensor a, Tensor b) -> Tensor");
  m.def(
      "linear_product_backward(Tensor grad, Tensor z, Tensor a, Tensor b, bool of_z, bool of_weight) -> "
      "(Tensor, Tensor, Tensor)");

  // Block weights [[A, -B], [B, A]] of many layers, each part [O, I, *], contiguous and of one dtype, in one flat
  // buffer of `dtype`: for each layer [2O, 2I, *], or channels-last [2O, *, 2I], starting at a multiple of 16 elements;
  // what lies between two layers is 0. Backward: the gradients of the blocks, each [2O, 2I, *] dense in that same
  // order, to those of A and B in `dtype` (added up in the wider of the two), one flat buffer A0, B0, A1, B1, ..., each
  // contiguous and starting at a multiple of 16.
  m.def("pack_weights_forward(Tensor[] re, Tensor[] im, ScalarType dtype, bool channels_last) -> Tensor");
  m.def("pack_weights_backward(Tensor[] grads, ScalarType dtype, bool channels_last) -> Tensor");

  // second output: which element of its window won, one byte (255: a window of padding only)
  m.def(
      "magnitude_max_pool2d_forward(Tensor z, int[] kernel_size, int[] stride, int[] padding, int[] dilation, "
      "bool ceil_mode) -> (Tensor, Tensor)");
  m.def(
      "magnitude_max_pool2d_backward(Tensor grad, Tensor index, int[] input_size, int[] kernel_size, int[] stride, "
      "int[] padding, int[] dilation) -> Tensor");

  // Means over windows, on a CPU. divisor: in place of each window's count; 0: none. Backward: grad is channels-last,
  // which a map of one position does not show.
  m.def(
      "avg_pool2d_forward(Tensor z, int[] kernel_size, int[] stride, int[] padding, bool ceil_mode, "
      "bool count_include_pad, int divisor) -> Tensor");
  m.def(
      "avg_pool2d_backward(Tensor grad, int[] input_size, int[] kernel_size, int[] stride, int[] padding, "
      "bool count_include_pad, int divisor, bool channels_last) -> Tensor");
  m.def("adaptive_avg_pool2d_forward(Tensor z, int[] output_size) -> Tensor");
  m.def("adaptive_avg_pool2d_backward(Tensor grad, int[] input_size, bool channels_last) -> Tensor");

  // z times a mask with one element for both parts, or one for a whole channel: 0 with probability p, else 1 / (1 - p).
  // What is drawn follows from the seed, an int64, and the feature's shape and layout; so this is its own backward.
  m.def("dropout_forward(Tensor z, Tensor seed, float p, bool channels) -> Tensor");
}
