// y = relu(w (x - mean) rstd + b + residual) of a real feature: mean and variance (Welford, joined after Chan), then
// one pass that writes; backward likewise, masked by what came out.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "norm.h"

namespace cvk {
namespace {

// Mean and squared distances of what threads, programs and lanes have seen, joined in a fixed order.
template <class A>
struct Spread : Moments<A> {
  static CVK_INLINE Spread zero() { return {Moments<A>::zero()}; }
  CVK_DEVICE Spread across(int lanes) const {
    return {{__shfl_xor_sync(0xffffffffu, this->n, lanes), __shfl_xor_sync(0xffffffffu, this->mean, lanes),
             __shfl_xor_sync(0xffffffffu, this->squares, lanes)}};
  }
};

// Row k of `partial`: the moments of the tiles k, k + programs, ...
template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    real_batch_norm_moments_kernel(const typename F::type* __restrict__ x,
                                   Spread<typename F::wide>* __restrict__ partial, Walk w) {
  using A = typename F::wide;
  constexpr int V = F::count;
  CVK_SHARED(Spread<A>, scratch, kThreads * V);
  CVK_SHARED(Spread<A>, totals, 32 * V);
  const Program p = program(w, blockIdx.x);
  Spread<A> seen[V];
#pragma unroll
  for (int j = 0; j < V; ++j) seen[j] = Spread<A>::zero();
  A n = A(0);
  for (uint32_t tile = p.k; tile < w.tiles; tile += w.programs) {
    const Place at = place<V>(w, p.group, tile, threadIdx.x);
    if (!at.inside) continue;
    A value[V];
    load<V>(x + at.at, value);
    n += A(1);
    const A inverse = A(1) / n;  // one division for all V
#pragma unroll
    for (int j = 0; j < V; ++j) include(value[j], inverse, &seen[j].mean, &seen[j].squares);
  }
#pragma unroll
  for (int j = 0; j < V; ++j) seen[j].n = n;
  add_block<V>(w, seen, scratch, totals);
  leave<V>(w, p, totals, partial);
}

template <class A>
struct RealNorm {
  const Spread<A>* partial;  // null: by the running statistics
  uint32_t programs;
  A *running_mean, *running_var;
  bool moves;
  Count batches;
  A momentum, eps;
  A *mean, *rstd;
  Vector weight, bias;
};

template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    real_batch_norm_relu_forward_kernel(const typename F::type* __restrict__ x,
                                        const typename F::type* __restrict__ residual,
                                        typename F::type* __restrict__ out, RealNorm<typename F::wide> norm, Walk w) {
  using T = typename F::type;
  using A = typename F::wide;
  constexpr int V = F::count;
  CVK_SHARED(Spread<A>, scratch, kThreads * V);
  CVK_SHARED(Spread<A>, totals, 32 * V);
  CVK_SHARED(A, means, 32 * V);
  CVK_SHARED(A, scales, 32 * V);
  CVK_SHARED(A, biases, 32 * V);
  const Program p = program(w, blockIdx.x);
  if (norm.partial) add_up<V>(w, p.group, norm.partial, norm.programs, scratch, totals);
  const int64_t first = first_channel<V>(w, p.group);
  for (int t = threadIdx.x; t < channels_of<V>(w); t += kThreads) {
    const int64_t c = first + t;
    if (w.last && c >= w.columns) continue;
    const A n = norm.partial ? totals[t].n : A(1);
    const A mean = norm.partial ? totals[t].mean : norm.running_mean[c];
    const A var = norm.partial ? totals[t].squares / n : norm.running_var[c];
    const A r = rstd_of(var, norm.eps);
    means[t] = mean;
    scales[t] = norm.weight.data ? r * read<T>(norm.weight, c) : r;
    biases[t] = norm.bias.data ? read<T>(norm.bias, c) : A(0);
    if (p.k == 0) {
      norm.mean[c] = mean, norm.rstd[c] = r;
      if (norm.moves) {
        const A rate = rate_of(norm.batches, norm.momentum);
        if (norm.running_mean) norm.running_mean[c] = moved(norm.running_mean[c], mean, rate);
        if (norm.running_var) norm.running_var[c] = moved(norm.running_var[c], totals[t].squares / (n - A(1)), rate);
      }
    }
  }
  __syncthreads();
  A mean[V], scale[V], bias[V];
  spread<V>(w, means, mean);
  spread<V>(w, scales, scale);
  spread<V>(w, biases, bias);
  for (uint32_t tile = p.k; tile < w.tiles; tile += w.programs) {
    const Place at = place<V>(w, p.group, tile, threadIdx.x);
    if (!at.inside) continue;
    A value[V];
    load<V>(x + at.at, value);
#pragma unroll
    for (int j = 0; j < V; ++j) value[j] = (value[j] - mean[j]) * scale[j] + bias[j];
    if (residual) {
      A more[V];
      load<V>(residual + at.at, more);
#pragma unroll
      for (int j = 0; j < V; ++j) value[j] += more[j];
    }
#pragma unroll
    for (int j = 0; j < V; ++j) value[j] = relu(value[j]);
    store<V>(out + at.at, value);
  }
}

// Row k of `partial`: sums of the masked gradient, and of it times the normalised x.
template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    real_batch_norm_relu_sums_kernel(const typename F::type* __restrict__ grad,
                                     const typename F::type* __restrict__ out, const typename F::type* __restrict__ x,
                                     const typename F::wide* __restrict__ mean,
                                     const typename F::wide* __restrict__ rstd,
                                     Pair<typename F::wide>* __restrict__ partial, Walk w) {
  using A = typename F::wide;
  constexpr int V = F::count;
  CVK_SHARED(Pair<A>, scratch, kThreads * V);
  CVK_SHARED(Pair<A>, totals, 32 * V);
  const Program p = program(w, blockIdx.x);
  A m[V], r[V];
  of_group<F>(w, p.group, mean, m);
  of_group<F>(w, p.group, rstd, r);
  Pair<A> sums[V];
#pragma unroll
  for (int j = 0; j < V; ++j) sums[j] = Pair<A>::zero();
  for (uint32_t tile = p.k; tile < w.tiles; tile += w.programs) {
    const Place at = place<V>(w, p.group, tile, threadIdx.x);
    if (!at.inside) continue;
    A g[V], y[V], value[V];
    load<V>(grad + at.at, g);
    load<V>(out + at.at, y);
    load<V>(x + at.at, value);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const A masked = y[j] <= A(0) ? A(0) : g[j];
      sums[j].first += masked;
      sums[j].second += masked * ((value[j] - m[j]) * r[j]);
    }
  }
  add_block<V>(w, sums, scratch, totals);
  leave<V>(w, p, totals, partial);
}

template <class T>
struct RealGrads {
  T *x, *residual;  // residual may be null
  Vector weight, bias;
};

template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    real_batch_norm_relu_backward_kernel(const typename F::type* __restrict__ grad,
                                         const typename F::type* __restrict__ out,
                                         const typename F::type* __restrict__ x,
                                         const typename F::wide* __restrict__ mean,
                                         const typename F::wide* __restrict__ rstd, Vector weight,
                                         const Pair<typename F::wide>* __restrict__ partial, uint32_t programs,
                                         typename F::wide count, bool batch, RealGrads<typename F::type> to, Walk w) {
  using T = typename F::type;
  using A = typename F::wide;
  constexpr int V = F::count;
  CVK_SHARED(Pair<A>, scratch, kThreads * V);
  CVK_SHARED(Pair<A>, totals, 32 * V);
  CVK_SHARED(A, alphas, 32 * V);
  CVK_SHARED(A, betas, 32 * V);
  CVK_SHARED(A, gammas, 32 * V);
  const Program p = program(w, blockIdx.x);
  if (partial) add_up<V>(w, p.group, partial, programs, scratch, totals);
  const int64_t first = first_channel<V>(w, p.group);
  for (int t = threadIdx.x; t < channels_of<V>(w); t += kThreads) {
    const int64_t c = first + t;
    if (w.last && c >= w.columns) continue;
    const A scale = weight.data ? read<T>(weight, c) : A(1);
    const Pair<A> sum = partial ? totals[t] : Pair<A>::zero();
    const Slopes<A> slopes = slopes_of(rstd[c], scale, sum.second, count, batch);
    alphas[t] = slopes.alpha, betas[t] = slopes.beta;
    gammas[t] = batch ? -slopes.alpha * (sum.first / count) : A(0);
    if (p.k == 0) {
      if (to.weight.data) write<T>(to.weight, c, sum.second);
      if (to.bias.data) write<T>(to.bias, c, sum.first);
    }
  }
  __syncthreads();
  A m[V], r[V], alpha[V], beta[V], gamma[V];
  of_group<F>(w, p.group, mean, m);
  of_group<F>(w, p.group, rstd, r);
  spread<V>(w, alphas, alpha);
  spread<V>(w, betas, beta);
  spread<V>(w, gammas, gamma);
  for (uint32_t tile = p.k; tile < w.tiles; tile += w.programs) {
    const Place at = place<V>(w, p.group, tile, threadIdx.x);
    if (!at.inside) continue;
    A g[V], y[V];
    load<V>(grad + at.at, g);
    load<V>(out + at.at, y);
#pragma unroll
    for (int j = 0; j < V; ++j) g[j] = y[j] <= A(0) ? A(0) : g[j];
    if (to.residual) store<V>(to.residual + at.at, g);
    if (batch) {
      A value[V];
      load<V>(x + at.at, value);
#pragma unroll
      for (int j = 0; j < V; ++j) g[j] = alpha[j] * g[j] + beta[j] * ((value[j] - m[j]) * r[j]) + gamma[j];
    } else {
#pragma unroll
      for (int j = 0; j < V; ++j) g[j] *= alpha[j];
    }
    store<V>(to.x + at.at, g);
  }
}

// --- host ------------------------------------------------------------------------------------------------------------

// A real feature [N, C, *], dense: contiguous or with the channel as its fastest axis.
Planar real(const Tensor& t, const char* name) {
  STD_TORCH_CHECK(t.dim() >= 2, name, " must be [N, C, *]");
  Planar v{};
  v.n = t.size(0), v.c = t.size(1), v.s = 1;
  const int64_t dims = t.dim();
  for (int64_t d = 2; d < dims; ++d) v.s *= t.size(d);
  v.layout = t.numel() == 0 || dense_in_order(t, {{}, 0, dims}) ? Layout::contiguous : Layout::channels_last;
  STD_TORCH_CHECK(v.layout == Layout::contiguous || dense_in_order(t, {{0}, 2, dims, {1}}), name,
                  " must be dense: contiguous or channels-last");
  return v;
}

void check_as(const Tensor& t, const Planar& v, const Tensor& like, const char* name) {
  const Planar found = real(t, name);
  STD_TORCH_CHECK(found.n == v.n && found.c == v.c && found.s == v.s && found.layout == v.layout &&
                      t.scalar_type() == like.scalar_type(),
                  name, " must have the shape, layout and dtype of the feature it is read with");
  check_device(t, like, name);
}

template <class A>
A* running_of(const std::optional<Tensor>& t, const Planar& v, const Tensor& like, const char* name) {
  if (!t) return nullptr;
  STD_TORCH_CHECK(t->scalar_type() == wide_of(like), name, " must be float32, or float64 with float64 features");
  vector_of(t, v.c, like, name);
  return data<A>(*t);
}

std::tuple<Tensor, Tensor, Tensor> forward(Tensor x, std::optional<Tensor> running_mean,
                                           std::optional<Tensor> running_var, std::optional<Tensor> weight,
                                           std::optional<Tensor> bias, std::optional<Tensor> residual,
                                           std::optional<Tensor> batches, bool training, double momentum, double eps) {
  const Planar v = real(x, "x");
  if (residual) check_as(*residual, v, x, "residual");
  const OnDevice guard(x);
  Tensor out = empty_as(x);
  Tensor mean = empty_of(x, {v.c}, wide_of(x)), rstd = empty_as(mean);
  const bool batch = training || !running_mean || !running_var;
  with_dtype(x, "real_batch_norm_relu", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    A* const kept_mean = running_of<A>(running_mean, v, x, "running_mean");
    A* const kept_var = running_of<A>(running_var, v, x, "running_var");
    if (v.values() == 0) {
      rstd_of_nothing<A>(running_var, batch, eps, rstd);
      if (batch) {
        torch::stable::fill_(mean, NAN);
      } else {
        torch::stable::copy_(mean, *running_mean);
      }
      return;
    }
    const T* res = data_or_null<const T>(residual);
    const bool wide = packs<T>(v, By::channel, {x.data_ptr(), res, out.data_ptr()}, 1);
    with_plain_form<T>(wide, [&](auto form) {
      using F = decltype(form);
      const Walk every = walk(v, By::channel, F::count, 1);
      Partials partial{};
      if (batch) {
        const Walk w = shared(every, kPrograms);
        partial = {room_for(w, x, 3), w.programs};
        launch(x, real_batch_norm_moments_kernel<F>, w.blocks(), data<const T>(x), partial.template of<Spread<A>>(), w);
      }
      const RealNorm<A> norm{partial.template of<Spread<A>>(),
                             partial.programs,
                             kept_mean,
                             kept_var,
                             training,
                             training ? count_of(batches, x) : Count{nullptr, ScalarType::Float},
                             static_cast<A>(momentum),
                             static_cast<A>(eps),
                             data<A>(mean),
                             data<A>(rstd),
                             vector_of(weight, v.c, x, "weight"),
                             vector_of(bias, v.c, x, "bias")};
      const Walk w = shared(every, kMostBlocks, 2);
      launch(x, real_batch_norm_relu_forward_kernel<F>, w.blocks(), data<const T>(x), res, data<T>(out), norm, w);
    });
  });
  return {out, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(Tensor grad, Tensor out, Tensor x, std::optional<Tensor> weight,
                                                    Tensor mean, Tensor rstd, bool training, bool has_residual) {
  const Planar v = real(x, "x");
  check_as(grad, v, x, "grad"), check_as(out, v, x, "out");
  check_rstd(rstd, v, x), check_rstd(mean, v, x);
  const OnDevice guard(x);
  Tensor grad_x = empty_as(x);
  Tensor grad_weight = weight ? empty_as(*weight) : none_like(x);
  Tensor grad_bias = weight ? empty_as(*weight) : none_like(x);
  Tensor grad_residual = has_residual ? empty_as(x) : none_like(x);
  if (v.values() == 0) {
    torch::stable::zero_(grad_weight);
    torch::stable::zero_(grad_bias);
    return {grad_x, grad_residual, grad_weight, grad_bias};
  }
  with_dtype(x, "real_batch_norm_relu", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    T* to_residual = has_residual ? data<T>(grad_residual) : nullptr;
    const bool wide =
        packs<T>(v, By::channel, {x.data_ptr(), grad.data_ptr(), out.data_ptr(), grad_x.data_ptr(), to_residual}, 1);
    with_plain_form<T>(wide, [&](auto form) {
      using F = decltype(form);
      const Walk every = walk(v, By::channel, F::count, 1);
      Partials partial{};
      if (training || weight) {
        const Walk w = shared(every, kPrograms);
        partial = {room_for(w, x, 2), w.programs};
        launch(x, real_batch_norm_relu_sums_kernel<F>, w.blocks(), data<const T>(grad), data<const T>(out),
               data<const T>(x), data<const A>(mean), data<const A>(rstd), partial.template of<Pair<A>>(), w);
      }
      const Vector none{nullptr, false};
      const RealGrads<T> to{data<T>(grad_x), to_residual, weight ? vector_of(grad_weight, v.c, x, "grad_weight") : none,
                            weight ? vector_of(grad_bias, v.c, x, "grad_bias") : none};
      const Walk w = shared(every, kMostBlocks, 2);
      launch(x, real_batch_norm_relu_backward_kernel<F>, w.blocks(), data<const T>(grad), data<const T>(out),
             data<const T>(x), data<const A>(mean), data<const A>(rstd), vector_of(weight, v.c, x, "weight"),
             static_cast<const Pair<A>*>(partial.template of<Pair<A>>()), partial.programs, static_cast<A>(v.n * v.s),
             training, to, w);
    });
  });
  return {grad_x, grad_residual, grad_weight, grad_bias};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CUDA, m) {
  m.impl("real_batch_norm_relu_forward", TORCH_BOX(&cvk::forward));
  m.impl("real_batch_norm_relu_backward", TORCH_BOX(&cvk::backward));
}
