// Kernels that are wrong on purpose: what the emulator is worth is that it sees them.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../../csrc/common/shape.h"
#include "../../csrc/cuda/form.h"

namespace cvk {
namespace {

// A neighbour's number is read without waiting for it.
__global__ void race_kernel(float* out) {
  CVK_SHARED(float, shared, kThreads);
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = shared[(threadIdx.x + 1) % kThreads];
}

__global__ void no_race_kernel(float* out) {
  CVK_SHARED(float, shared, kThreads);
  shared[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = shared[(threadIdx.x + 1) % kThreads];
}

__global__ void outside_kernel(const float* x, float* out, int64_t count) {
  if (threadIdx.x == 0) out[0] = x[count];
}

__global__ void outside_shared_kernel(float* out, int64_t at) {
  CVK_SHARED(float, shared, 8);
  shared[0] = 1.0f;
  if (threadIdx.x == 0) out[0] = shared[at];
}

__global__ void misaligned_kernel(const float* x, float* out) {
  float four[4];
  load_pack(x + 1, four);
  if (threadIdx.x == 0) out[0] = four[3];
}

__global__ void apart_kernel(float* out) {
  if (threadIdx.x < kThreads / 2) __syncthreads();
  out[threadIdx.x] = 0.0f;
}

Tensor run(Tensor x, int64_t which) {
  Tensor out = empty_of(x, {kThreads});
  float* to = data<float>(out);
  if (which == 0) launch(x, race_kernel, 1, to);
  if (which == 1) launch(x, no_race_kernel, 1, to);
  if (which == 2) launch(x, outside_kernel, 1, data<const float>(x), to, x.numel());
  if (which == 3) launch(x, outside_shared_kernel, 1, to, x.numel());
  if (which == 4) launch(x, misaligned_kernel, 1, data<const float>(x), to);
  if (which == 5) launch(x, apart_kernel, 1, to);
  return out;
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY(cvkernels_emulated_faults, m) { m.def("run(Tensor x, int which) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(cvkernels_emulated_faults, CPU, m) { m.impl("run", TORCH_BOX(&cvk::run)); }
