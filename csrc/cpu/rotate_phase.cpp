// y = z e^{i theta}
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "angle.h"

namespace cvk {
namespace {

template <class T, int64_t STEP>
CVK_CLONES void turn_run(const T* re, const T* im, T* out_re, T* out_im, int64_t count, T cos, T sin) {
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    const T x = re[i * STEP], y = im[i * STEP];
    out_re[i * STEP] = x * cos - y * sin;
    out_im[i * STEP] = x * sin + y * cos;
  }
}

// in turned by theta (direction 1) or back (-1) into out
template <class T>
void turn(const Tensor& in, const Tensor& out, const Planar& v, const Tensor& theta, T direction) {
  const T* from = data<T>(in);
  T* to = data<T>(out);
  const auto turns = turns_of<T>(theta);
  with_step(v, [&](auto step) {
    for_runs(v, [&](int64_t, int64_t n, int64_t at, int64_t, int64_t count) {
      const int64_t im = at + v.part;
      turn_run<T, step.value>(from + at, from + im, to + at, to + im, count, turns[n].re, direction * turns[n].im);
    });
  });
}

Tensor forward(Tensor z, Tensor theta) {
  const Planar v = planar(z, "z");
  check_vector(theta, v.n, "theta");
  Tensor out = torch::stable::empty_like(z);
  with_dtype(z, "rotate_phase", [&](auto zero) { turn<decltype(zero)>(z, out, v, theta, 1); });
  return out;
}

std::tuple<Tensor, Tensor> backward(Tensor grad, std::optional<Tensor> out, Tensor theta) {
  const Planar v = planar(grad, "grad");
  if (out) check_alike(*out, v, grad, "out");
  check_vector(theta, v.n, "theta");
  Tensor grad_z = torch::stable::empty_like(grad);
  Tensor grad_theta = out ? torch::stable::empty_like(theta) : none_like(theta);
  with_dtype(grad, "rotate_phase", [&](auto zero) {
    using T = decltype(zero);
    turn<T>(grad, grad_z, v, theta, -1);
    if (!out) return;
    const T *y = data<T>(*out), *g = data<T>(grad);
    AngleSum sum(v, true);
    with_step(v, [&](auto step) {
      for_runs(v, [&](int64_t task, int64_t, int64_t at, int64_t, int64_t count) {
        const int64_t im = at + v.part;
        sum.add(task, cross<T, step.value>(y + at, y + im, g + at, g + im, count));
      });
    });
    sum.write(grad_theta);
  });
  return {grad_z, grad_theta};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("rotate_phase_forward", TORCH_BOX(&cvk::forward));
  m.impl("rotate_phase_backward", TORCH_BOX(&cvk::backward));
}
