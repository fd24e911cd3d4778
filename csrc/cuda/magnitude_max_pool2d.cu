// Magnitude max pooling on the GPU, forward and backward: one thread an output, then one thread an input element, which
// gathers from the windows that cover it (no atomics, so a run repeats itself bit for bit).
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "../common/planar.h"
#include "../common/window.h"

namespace {

using cvk::Axis;
using cvk::Layout;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int kThreads = 256;
constexpr int kMinBlocks = 2;  // said aloud: left to itself ptxas spills a few registers to fit more blocks
constexpr int64_t kMostBlocks = 0x7fffffff;

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
__device__ __forceinline__ Site<I> site(I t, I channels, I height, I width) {
  if constexpr (kLast) {
    const I pixel = t / channels, row = pixel / width, n = row / height;
    return {n, t - pixel * channels, row - n * height, pixel - row * width};
  } else {
    const I row = t / width, plane = row / height, n = plane / channels;
    return {n, plane - n * channels, row - plane * height, t - row * width};
  }
}

template <class I>
__device__ __forceinline__ I thread_index() {
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
  const auto winner = cvk::strongest(re, re + from.part, from.y, from.x, y, x, s.y, s.x);
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
  cvk::gather(re, re + from.part, from.y, from.x, index + plane * y.out * x.out, y, x, s.y, s.x, at, at + to.part);
}

// [N, 2, C, H, W] in the layout of `like`, uninitialised.
Tensor feature(const Tensor& like, Layout layout, int64_t height, int64_t width) {
  using torch::stable::new_empty;
  using torch::stable::transpose;
  const int64_t n = like.size(0), c = like.size(2);
  if (layout == Layout::channels_last) {
    const std::vector<int64_t> size{n, height, width, 2, c};
    return transpose(transpose(new_empty(like, size), 1, 3), 2, 4);
  }
  if (layout == Layout::interleaved) {
    const std::vector<int64_t> size{n, c, height, width, 2};
    return transpose(transpose(transpose(new_empty(like, size), 1, 4), 2, 4), 3, 4);
  }
  const std::vector<int64_t> size{n, 2, c, height, width};
  return new_empty(like, size);
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
  STD_TORCH_CHECK(kernel[0] * kernel[1] <= cvk::kNothing, "a window of more than ", cvk::kNothing,
                  " elements does not fit a byte of index");
  return {{size[0], kernel[0], stride[0], padding[0], dilation[0], out[0]},
          {size[1], kernel[1], stride[1], padding[1], dilation[1], out[1]}};
}

Layout layout_of(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() == 5, name, " must be planar [N, 2, C, H, W]");
  return cvk::planar(t, name).layout;
}

cudaStream_t current_stream(int32_t device) {
  void* stream = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

// Calls `run(T{}, I{}, std::bool_constant<last>{})` for the dtype, the width of the coordinates and the layout.
template <class Run>
void dispatch(ScalarType dtype, bool narrow, bool last, Run run) {
  const auto with_layout = [&](auto t, auto i) { last ? run(t, i, std::true_type{}) : run(t, i, std::false_type{}); };
  const auto with_index = [&](auto t) { narrow ? with_layout(t, int32_t{}) : with_layout(t, int64_t{}); };
  switch (dtype) {
    case ScalarType::Float:
      return with_index(float{});
    case ScalarType::Double:
      return with_index(double{});
    default:
      STD_TORCH_CHECK(false, "magnitude_max_pool2d has no CUDA kernel for ", torch::headeronly::toString(dtype));
  }
}

unsigned blocks_for(int64_t count) {
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  STD_TORCH_CHECK(blocks <= kMostBlocks, "magnitude_max_pool2d: ", count, " elements are more than one launch holds");
  return static_cast<unsigned>(blocks);
}

std::tuple<Tensor, Tensor> forward(Tensor z, std::vector<int64_t> kernel, std::vector<int64_t> stride,
                                   std::vector<int64_t> padding, std::vector<int64_t> dilation, bool ceil_mode) {
  const Layout layout = layout_of(z, "z");
  const torch::stable::accelerator::DeviceGuard guard(z.get_device_index());
  std::vector<int64_t> size(2);
  for (const auto* v : {&kernel, &stride, &padding, &dilation}) {
    STD_TORCH_CHECK(v->size() == 2, "a window is given by pairs, got ", v->size(), " values");
  }
  for (int i = 0; i < 2; ++i) {
    size[i] = cvk::output_size(z.size(3 + i), kernel[i], stride[i], padding[i], dilation[i], ceil_mode);
  }
  const auto [y, x] = axes({z.size(3), z.size(4)}, kernel, stride, padding, dilation, size);
  Tensor out = feature(z, layout, y.out, x.out);
  const std::vector<int64_t> index_size{z.size(0), z.size(2), y.out, x.out};
  Tensor index = torch::stable::new_empty(z, index_size, ScalarType::Byte);
  const int64_t count = index.numel();
  if (count == 0) return {out, index};
  const bool narrow = cvk::narrow(y, count) && cvk::narrow(x, count);
  const Strides from = strides_of(z), to = strides_of(out);
  dispatch(z.scalar_type(), narrow, layout == Layout::channels_last, [&](auto t, auto i, auto last) {
    using T = decltype(t);
    using I = decltype(i);
    magnitude_max_pool2d_forward_kernel<T, I, decltype(last)::value>
        <<<blocks_for(count), kThreads, 0, current_stream(z.get_device_index())>>>(
            static_cast<const T*>(z.data_ptr()), static_cast<T*>(out.data_ptr()),
            static_cast<uint8_t*>(index.data_ptr()), from, to, cvk::as<I>(y), cvk::as<I>(x), I(z.size(2)), I(count));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return {out, index};
}

Tensor backward(Tensor grad, Tensor index, std::vector<int64_t> input_size, std::vector<int64_t> kernel,
                std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation) {
  const Layout layout = layout_of(grad, "grad");
  const torch::stable::accelerator::DeviceGuard guard(grad.get_device_index());
  const auto [y, x] = axes(input_size, kernel, stride, padding, dilation, {grad.size(3), grad.size(4)});
  STD_TORCH_CHECK(index.is_cuda() && index.get_device_index() == grad.get_device_index() && index.is_contiguous() &&
                      index.scalar_type() == ScalarType::Byte && 2 * index.numel() == grad.numel(),
                  "`index` must be what the forward returned for this gradient");
  Tensor out = feature(grad, layout, y.size, x.size);
  const int64_t count = out.numel() / 2;
  if (count == 0) return out;
  const bool narrow = cvk::narrow(y, count) && cvk::narrow(x, count);
  const Strides from = strides_of(grad), to = strides_of(out);
  dispatch(grad.scalar_type(), narrow, layout == Layout::channels_last, [&](auto t, auto i, auto last) {
    using T = decltype(t);
    using I = decltype(i);
    magnitude_max_pool2d_backward_kernel<T, I, decltype(last)::value>
        <<<blocks_for(count), kThreads, 0, current_stream(grad.get_device_index())>>>(
            static_cast<const T*>(grad.data_ptr()), static_cast<const uint8_t*>(index.data_ptr()),
            static_cast<T*>(out.data_ptr()), from, to, cvk::as<I>(y), cvk::as<I>(x), I(grad.size(2)), I(count));
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CUDA, m) {
  m.impl("magnitude_max_pool2d_forward", TORCH_BOX(&forward));
  m.impl("magnitude_max_pool2d_backward", TORCH_BOX(&backward));
}
