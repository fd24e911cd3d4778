// Magnitude max pooling on the GPU, forward and backward: one thread an output, then one thread an input element, which
// gathers from the windows that cover it (no atomics, so a run repeats itself bit for bit).
#include <torch/csrc/stable/library.h>

#include <utility>
#include <vector>

#include "../common/shape.h"
#include "../common/window.h"
#include "form.h"

namespace cvk {
namespace {

// Elements from one neighbour to the next of [N, 2, C, H, W].
struct Strides {
  int64_t n, part, c, y, x;
};

// What thread t works on: neighbours in memory are neighbours in t.
template <class I>
struct Site {
  I n, c, y, x;
};

template <class I, bool kLast>
CVK_INLINE Site<I> site(I t, I channels, I height, I width) {
  if constexpr (kLast) {
    const I pixel = t / channels, row = pixel / width, n = row / height;
    return {n, t - pixel * channels, row - n * height, pixel - row * width};
  } else {
    const I row = t / width, plane = row / height, n = plane / channels;
    return {n, plane - n * channels, row - plane * height, t - row * width};
  }
}

template <class I>
__device__ inline I thread_index() {
  return static_cast<I>(blockIdx.x) * kThreads + static_cast<I>(threadIdx.x);
}

template <class T, class I, bool kLast>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    magnitude_max_pool2d_forward_kernel(const T* __restrict__ z, T* __restrict__ out, uint8_t* __restrict__ index,
                                        Strides from, Strides to, Axis<I> y, Axis<I> x, I channels, I count) {
  const I t = thread_index<I>();
  if (t >= count) return;
  const Site<I> s = site<I, kLast>(t, channels, y.out, x.out);
  const T* re = z + s.n * from.n + s.c * from.c;
  const auto winner = strongest(re, re + from.part, from.y, from.x, y, x, s.y, s.x);
  T* at = out + s.n * to.n + s.c * to.c + s.y * to.y + s.x * to.x;
  at[0] = winner.re;
  at[to.part] = winner.im;
  const int64_t plane = static_cast<int64_t>(s.n) * channels + s.c;
  index[(plane * y.out + s.y) * x.out + s.x] = static_cast<uint8_t>(winner.place);
}

template <class T, class I, bool kLast>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    magnitude_max_pool2d_backward_kernel(const T* __restrict__ grad, const uint8_t* __restrict__ index,
                                         T* __restrict__ out, Strides from, Strides to, Axis<I> y, Axis<I> x,
                                         I channels, I count) {
  const I t = thread_index<I>();
  if (t >= count) return;
  const Site<I> s = site<I, kLast>(t, channels, y.size, x.size);
  const T* re = grad + s.n * from.n + s.c * from.c;
  const int64_t plane = static_cast<int64_t>(s.n) * channels + s.c;
  T* at = out + s.n * to.n + s.c * to.c + s.y * to.y + s.x * to.x;
  gather(re, re + from.part, from.y, from.x, index + plane * y.out * x.out, y, x, s.y, s.x, at, at + to.part);
}

Strides strides_of(const Tensor& t) { return {t.stride(0), t.stride(1), t.stride(2), t.stride(3), t.stride(4)}; }

std::pair<Axis<int64_t>, Axis<int64_t>> axes(const std::vector<int64_t>& size, const std::vector<int64_t>& kernel,
                                             const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                                             const std::vector<int64_t>& dilation, const std::vector<int64_t>& out) {
  for (const auto* v : {&size, &kernel, &stride, &padding, &dilation, &out}) {
    STD_TORCH_CHECK(v->size() == 2, "a window is given by pairs, got ", v->size(), " values");
  }
  for (int i = 0; i < 2; ++i) {
    STD_TORCH_CHECK(kernel[i] > 0 && stride[i] > 0 && dilation[i] > 0 && padding[i] >= 0 && out[i] >= 0,
                    "kernel, stride and dilation must be positive, padding and output not negative");
  }
  STD_TORCH_CHECK(kernel[0] * kernel[1] <= kNothing, "a window of more than ", kNothing,
                  " elements does not fit a byte of index");
  return {{size[0], kernel[0], stride[0], padding[0], dilation[0], out[0]},
          {size[1], kernel[1], stride[1], padding[1], dilation[1], out[1]}};
}

Planar checked(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() == 5, name, " must be planar [N, 2, C, H, W]");
  return planar(t, name);
}

// Calls `run(T{}, I{}, std::bool_constant<last>{})` for the dtype, the width of the coordinates and the layout.
template <class Run>
void dispatch(const Tensor& t, bool narrow, bool last, Run run) {
  with_dtype(t, "magnitude_max_pool2d", [&](auto zero) {
    const auto with_layout = [&](auto i) { last ? run(zero, i, std::true_type{}) : run(zero, i, std::false_type{}); };
    narrow ? with_layout(int32_t{}) : with_layout(int64_t{});
  });
}

int64_t blocks_for(int64_t count) { return (count + kThreads - 1) / kThreads; }

std::tuple<Tensor, Tensor> forward(Tensor z, std::vector<int64_t> kernel, std::vector<int64_t> stride,
                                   std::vector<int64_t> padding, std::vector<int64_t> dilation, bool ceil_mode) {
  const Planar v = checked(z, "z");
  const OnDevice guard(z);
  std::vector<int64_t> size(2);
  for (const auto* v : {&kernel, &stride, &padding, &dilation}) {
    STD_TORCH_CHECK(v->size() == 2, "a window is given by pairs, got ", v->size(), " values");
  }
  for (int i = 0; i < 2; ++i) {
    size[i] = output_size(z.size(3 + i), kernel[i], stride[i], padding[i], dilation[i], ceil_mode);
  }
  const auto [y, x] = axes({z.size(3), z.size(4)}, kernel, stride, padding, dilation, size);
  Tensor out = resized(z, v, y.out, x.out);
  const std::vector<int64_t> index_size{z.size(0), z.size(2), y.out, x.out};
  Tensor index = empty_of(z, index_size, ScalarType::Byte);
  const int64_t count = index.numel();
  if (count == 0) return {out, index};
  const bool small = narrow(y, count) && narrow(x, count);
  const Strides from = strides_of(z), to = strides_of(out);
  dispatch(z, small, v.layout == Layout::channels_last, [&](auto t, auto i, auto last) {
    using T = decltype(t);
    using I = decltype(i);
    launch(z, magnitude_max_pool2d_forward_kernel<T, I, decltype(last)::value>, blocks_for(count), data<const T>(z),
           data<T>(out), data<uint8_t>(index), from, to, as<I>(y), as<I>(x), I(z.size(2)), I(count));
  });
  return {out, index};
}

Tensor backward(Tensor grad, Tensor index, std::vector<int64_t> input_size, std::vector<int64_t> kernel,
                std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation) {
  const Planar v = checked(grad, "grad");
  const OnDevice guard(grad);
  const auto [y, x] = axes(input_size, kernel, stride, padding, dilation, {grad.size(3), grad.size(4)});
  STD_TORCH_CHECK(in_place(index, grad) && index.is_contiguous() && index.scalar_type() == ScalarType::Byte &&
                      2 * index.numel() == grad.numel(),
                  "`index` must be what the forward returned for this gradient");
  Tensor out = resized(grad, v, y.size, x.size);
  const int64_t count = out.numel() / 2;
  if (count == 0) return out;
  const bool small = narrow(y, count) && narrow(x, count);
  const Strides from = strides_of(grad), to = strides_of(out);
  dispatch(grad, small, v.layout == Layout::channels_last, [&](auto t, auto i, auto last) {
    using T = decltype(t);
    using I = decltype(i);
    launch(grad, magnitude_max_pool2d_backward_kernel<T, I, decltype(last)::value>, blocks_for(count),
           data<const T>(grad), data<const uint8_t>(index), data<T>(out), from, to, as<I>(y), as<I>(x), I(grad.size(2)),
           I(count));
  });
  return out;
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CUDA, m) {
  m.impl("magnitude_max_pool2d_forward", TORCH_BOX(&cvk::forward));
  m.impl("magnitude_max_pool2d_backward", TORCH_BOX(&cvk::backward));
}
