// y = z e^{i theta}
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "angle.h"

namespace cvk {
namespace {

// in turned by theta, or back, into to. out: what the forward gave where dL/dtheta is wanted of `in` the gradient.
template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    rotate_phase_kernel(const typename F::type* __restrict__ in, const typename F::type* __restrict__ out,
                        typename F::type* __restrict__ to, Sum<typename F::wide>* __restrict__ partial, Angles theta,
                        bool back, Walk w) {
  using W = typename F::wide;
  constexpr int V = F::count;
  const Program p = program(w, blockIdx.x);
  Complex<W> t = block_turn<W>(theta, p.group);
  if (back) t.im = -t.im;
  sum_tiles<F>(w, partial, [&](const Place& at, Sum<W>(&sums)[V]) {
    W re[V], im[V];
    load_parts<F>(in, at.at, w.part, re, im);
    if (out) add_slopes<F>(out, at.at, w.part, re, im, sums);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const Complex<W> x = turned(re[j], im[j], t);
      re[j] = x.re, im[j] = x.im;
    }
    store_parts<F>(to, at.at, w.part, re, im);
  });
}

Tensor turn(const Tensor& in, const Planar& v, const std::optional<Tensor>& out, const Tensor& theta, bool back,
            const Tensor* grad_theta) {
  const Angles angles = angles_of(theta, v.n, in);
  Tensor to = empty_as(in);
  if (v.values() == 0) return to;
  with_dtype(in, "rotate_phase", [&](auto zero) {
    using T = decltype(zero);
    using W = wide_t<T>;
    const T* x = data_or_null<const T>(out);
    with_form<T>(v, packs<T>(v, By::sample, {in.data_ptr(), x, to.data_ptr()}), [&](auto form) {
      using F = decltype(form);
      const Walk w = shared(walk(v, By::sample, F::count), x ? kPrograms : kMostBlocks, 2);
      Partials kept{};
      if (x) kept = {room_for(w, in), w.programs};
      launch(in, rotate_phase_kernel<F>, w.blocks(), data<const T>(in), x, data<T>(to), kept.template of<Sum<W>>(),
             angles, back, w);
      if (x) sum_angles<W>(in, kept, w, *grad_theta);
    });
  });
  return to;
}

Tensor forward(Tensor z, Tensor theta) {
  const OnDevice guard(z);
  return turn(z, planar(z, "z"), std::nullopt, theta, false, nullptr);
}

std::tuple<Tensor, Tensor> backward(Tensor grad, std::optional<Tensor> out, Tensor theta) {
  const Planar v = planar(grad, "grad");
  if (out) check_alike(*out, v, grad, "out"), check_device(*out, grad, "out");
  const OnDevice guard(grad);
  Tensor grad_theta = out ? empty_as(theta) : none_like(theta);
  if (v.values() == 0) torch::stable::zero_(grad_theta);
  Tensor grad_z = turn(grad, v, out, theta, true, &grad_theta);
  return {grad_z, grad_theta};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CUDA, m) {
  m.impl("rotate_phase_forward", TORCH_BOX(&cvk::forward));
  m.impl("rotate_phase_backward", TORCH_BOX(&cvk::backward));
}
