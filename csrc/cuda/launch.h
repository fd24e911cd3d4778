// How a kernel is started. Everything a kernel asks of CUDA goes through this header, so that the same files also run
// on a host, thread by thread (tests/emulated).
#pragma once

#if defined(CVK_ON_HOST)
#include "cuda_on_host.h"
#else
#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/headeronly/util/shim_utils.h>
#define CVK_SHARED(type, name, count) __shared__ type name[count]
#endif

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>

namespace cvk {

using torch::stable::Tensor;

#if !defined(CVK_THREADS)
#define CVK_THREADS 256
#endif
constexpr int kThreads = CVK_THREADS;  // of a block
constexpr int kWarps = kThreads / 32;
constexpr int kMinBlocks = 2;  // said aloud: left to itself ptxas spills a few registers to fit more blocks
constexpr int64_t kMostBlocks = 0x7fffffff;

// A number of blocks as a launch takes it; an error names what has too many elements for one.
inline unsigned blocks_of(int64_t blocks) {
  STD_TORCH_CHECK(blocks <= kMostBlocks, "more elements than one launch holds");
  return static_cast<unsigned>(blocks);
}

#if defined(CVK_ON_HOST)

struct OnDevice {
  explicit OnDevice(const Tensor&) {}
};

inline bool in_place(const Tensor& t, const Tensor& like) { return true; }

template <class... P, class... A>
void launch(const Tensor&, void (*kernel)(P...), int64_t blocks, A... args) {
  if (blocks > 0) emulated::run(blocks_of(blocks), kThreads, [&] { kernel(args...); });
}

#else

// Makes the tensor's device the current one for as long as it lives.
struct OnDevice {
  explicit OnDevice(const Tensor& t) : guard(t.get_device_index()) {}
  torch::stable::accelerator::DeviceGuard guard;
};

inline bool in_place(const Tensor& t, const Tensor& like) {
  return t.is_cuda() && t.get_device_index() == like.get_device_index();
}

// On the current stream of that tensor's device; waits for nothing.
template <class... P, class... A>
void launch(const Tensor& on, void (*kernel)(P...), int64_t blocks, A... args) {
  if (blocks <= 0) return;
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(on.get_device_index(), &stream));
  // clang-format off
  kernel<<<blocks_of(blocks), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(args...);
  // clang-format on
  STD_CUDA_KERNEL_LAUNCH_CHECK();
}

#endif

// A kernel reads this tensor's memory, so it must be where the feature is.
inline void check_device(const Tensor& t, const Tensor& like, const char* name) {
  STD_TORCH_CHECK(in_place(t, like), name, " must be on the device of the feature it is read with");
}

}  // namespace cvk
