// What the rotations share on the GPU: each sample's e^{i theta}, and the adding up of dL/dtheta.
#pragma once

#include "../common/rotation.h"
#include "../common/shape.h"
#include "norm.h"

namespace cvk {

struct Angles {
  const void* data;
  bool wide;  // float64, whatever the features are
};

template <class W>
CVK_INLINE Complex<W> turn_at(const Angles& theta, int64_t i) {
  return turn_of<W>(theta.wide ? static_cast<const double*>(theta.data)[i]
                               : static_cast<double>(static_cast<const float*>(theta.data)[i]));
}

// One thread works out e^{i theta} for its block: double is slow where it is not a GPU's business.
template <class W>
CVK_DEVICE Complex<W> block_turn(const Angles& theta, int64_t i) {
  CVK_SHARED(Complex<W>, turn, 1);
  if (threadIdx.x == 0) turn[0] = turn_at<W>(theta, i);
  __syncthreads();
  return turn[0];
}

// Adds each element's part of dL/dtheta: x what the rotation gave, re and im the gradient of it.
template <class F, class W = typename F::wide, int V = F::count>
CVK_DEVICE void add_slopes(const typename F::type* x, int64_t at, int64_t part, const W (&re)[V], const W (&im)[V],
                           Sum<W> (&sums)[V]) {
  W x_re[V], x_im[V];
  load_parts<F>(x, at, part, x_re, x_im);
#pragma unroll
  for (int j = 0; j < V; ++j) sums[j].value += turn_slope(x_re[j], x_im[j], re[j], im[j]);
}

template <class A>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    angle_sums_kernel(const Sum<A>* __restrict__ partial, void* __restrict__ grad_theta, bool wide, Walk w) {
  CVK_SHARED(Sum<A>, scratch, kThreads);
  CVK_SHARED(Sum<A>, totals, 32);
  add_up<1>(w, blockIdx.x, partial, w.programs, scratch, totals);
  if (threadIdx.x != 0) return;
  if (wide) {
    static_cast<double*>(grad_theta)[blockIdx.x] = static_cast<double>(totals[0].value);
  } else {
    static_cast<float*>(grad_theta)[blockIdx.x] = static_cast<float>(totals[0].value);
  }
}

// --- host ------------------------------------------------------------------------------------------------------------

inline Angles angles_of(const Tensor& theta, int64_t length, const Tensor& like) {
  check_vector(theta, length, "theta");
  check_device(theta, like, "theta");
  const bool wide = theta.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(wide || theta.scalar_type() == ScalarType::Float, "theta must be float32 or float64");
  return {theta.data_ptr(), wide};
}

// grad_theta from the partial sums of a launch that walked by `w`, one group for each angle.
template <class A>
void sum_angles(const Tensor& on, const Partials& kept, const Walk& w, const Tensor& grad_theta) {
  launch(on, angle_sums_kernel<A>, w.groups, static_cast<const Sum<A>*>(kept.template of<Sum<A>>()),
         grad_theta.data_ptr(), grad_theta.scalar_type() == ScalarType::Double, w);
}

}  // namespace cvk
