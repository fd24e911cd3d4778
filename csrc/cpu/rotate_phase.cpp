// y = z e^{i theta}
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "angle.h"

namespace cvk {
namespace {

template <class T, int64_t STEP, bool BACK>
CVK_CLONES void turn_runs(const T* re, const T* im, T* out_re, T* out_im, const Block& b, Complex<wide_t<T>> t) {
  for (int64_t row = 0; row < b.rows; ++row) {
    CVK_SIMD
    for (int64_t i = 0; i < b.count; ++i) {
      const wide_t<T> x = re[i * STEP], y = im[i * STEP];
      const auto turn = BACK ? turned_back(x, y, t) : turned(x, y, t);
      out_re[i * STEP] = turn.re;
      out_im[i * STEP] = turn.im;
    }
    re += b.stride, im += b.stride, out_re += b.stride, out_im += b.stride;
  }
}

Tensor forward(Tensor z, Tensor theta) {
  const Planar v = planar(z, "z");
  check_vector(theta, v.n, "theta");
  Tensor out = empty_as(z);
  with_dtype(z, "rotate_phase", [&](auto zero) {
    using T = decltype(zero);
    const T* in = data<T>(z);
    T* to = data<T>(out);
    const auto turns = turns_of<wide_t<T>>(theta);
    const bool past = output_past_caches(out);
    with_step(v, [&](auto step) {
      const auto run = [&](int64_t, int64_t n, int64_t re, int64_t, const Block& b) {
        const int64_t im = re + v.part;
        write_parts(past, to + re, to + im, b, [&](T* out_re, T* out_im) {
          turn_runs<T, step.value, false>(in + re, in + im, out_re, out_im, b, turns[n]);
        });
      };
      for_runs(v, run, piece_of<T>(past));
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> backward(Tensor grad, std::optional<Tensor> out, Tensor theta) {
  const Planar v = planar(grad, "grad");
  if (out) check_alike(*out, v, grad, "out");
  check_vector(theta, v.n, "theta");
  Tensor grad_z = empty_as(grad);
  Tensor grad_theta = out ? empty_as(theta) : none_like(theta);
  with_dtype(grad, "rotate_phase", [&](auto zero) {
    using T = decltype(zero);
    const T *g = data<T>(grad), *y = data_or_null<T>(out);
    T* to = data<T>(grad_z);
    const auto turns = turns_of<wide_t<T>>(theta);
    AngleSum sum(v, out.has_value());
    const bool past = gradient_past_caches(grad_z);
    with_step(v, [&](auto step) {
      const auto run = [&](int64_t task, int64_t n, int64_t re, int64_t, const Block& b) {
        const int64_t im = re + v.part;
        write_parts(past, to + re, to + im, b, [&](T* out_re, T* out_im) {
          turn_runs<T, step.value, true>(g + re, g + im, out_re, out_im, b, turns[n]);
        });
        if (y) sum.add(task, cross<T, step.value>(y + re, y + im, g + re, g + im, b));
      };
      for_runs(v, run, piece_of<T>(past));
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
