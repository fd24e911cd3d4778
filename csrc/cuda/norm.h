// What the magnitude norms share: the statistics that the first launch leaves, and what each block of the second makes
// of them: its channels' scale, or their slopes in the backward.
#pragma once

#include "../common/norm.h"
#include "../common/shape.h"
#include "reduce.h"

namespace cvk {

// Partial results of a reduction by channels.
struct Partials {
  std::optional<Tensor> kept;
  uint32_t programs;
  template <class E>
  E* of() const {
    return data_or_null<E>(kept);
  }
};

// Sums of |z|^2 (magnitude_power.cu).
Partials power_partials(const Tensor& z, const Planar& v);

// The number whose reciprocal replaces the momentum, in one of the types that torch counts in.
struct Count {
  const void* data;
  ScalarType dtype;
};

inline Count count_of(const std::optional<Tensor>& batches, const Tensor& like) {
  if (!batches.has_value()) return {nullptr, ScalarType::Float};
  const auto dtype = batches->scalar_type();
  STD_TORCH_CHECK(batches->numel() == 1, "batches must hold one element");
  STD_TORCH_CHECK(dtype == ScalarType::Long || dtype == ScalarType::Float || dtype == ScalarType::Double,
                  "batches must be int64, float32 or float64");
  check_device(*batches, like, "batches");
  return {batches->data_ptr(), dtype};
}

template <class A>
CVK_INLINE A rate_of(const Count& batches, A momentum) {
  if (!batches.data) return momentum;
  if (batches.dtype == ScalarType::Long) return A(1) / static_cast<A>(*static_cast<const int64_t*>(batches.data));
  if (batches.dtype == ScalarType::Float) return A(1) / static_cast<A>(*static_cast<const float*>(batches.data));
  return A(1) / static_cast<A>(*static_cast<const double*>(batches.data));
}

// --- forward ---------------------------------------------------------------------------------------------------------

template <class A>
struct Norm {
  const Sum<A>* partial;  // null: by the running power
  uint32_t programs;
  A count;
  A* running;
  bool moves;  // the running power, towards the batch's
  Count batches;
  A momentum, eps;
  A* rstd;
  Vector weight;
};

// rstd w of this thread's channels. One program of each group also writes what there is to keep.
template <class F, class A = typename F::wide, int V = F::count>
CVK_DEVICE void scale_of(const Walk& w, const Program& p, const Norm<A>& norm, A (&scale)[V]) {
  CVK_SHARED(Sum<A>, scratch, kThreads * V);
  CVK_SHARED(Sum<A>, totals, 32 * V);
  CVK_SHARED(A, table, 32 * V);
  if (norm.partial) add_up<V>(w, p.group, norm.partial, norm.programs, scratch, totals);
  const int64_t first = first_channel<V>(w, p.group);
  for (int t = threadIdx.x; t < channels_of<V>(w); t += kThreads) {
    const int64_t c = first + t;
    if (w.last && c >= w.columns) continue;
    const A mean = norm.partial ? totals[t].value / norm.count : norm.running[c];
    const A r = rstd_of(mean, norm.eps);
    table[t] = norm.weight.data ? r * read<typename F::type>(norm.weight, c) : r;
    if (p.k == 0) {
      norm.rstd[c] = r;
      if (norm.moves) norm.running[c] = moved(norm.running[c], mean, rate_of(norm.batches, norm.momentum));
    }
  }
  __syncthreads();
  spread<V>(w, table, scale);
}

// --- backward --------------------------------------------------------------------------------------------------------

template <class A>
struct Through {
  const Sum<A>* partial;  // sums of Re(conj(x) g); null where nothing needs them
  uint32_t programs;
  A count;
  const A* rstd;
  Vector weight, grad_weight;
  bool batch;  // statistics of the batch, not frozen ones
};

// rstd of this thread's channels
template <class F, class A = typename F::wide, int V = F::count>
CVK_DEVICE void of_group(const Walk& w, uint32_t group, const A* rstd, A (&x)[V]) {
  const int64_t first = first_channel<V>(w, group) + (w.last ? (threadIdx.x & (kept_lanes(w) - 1)) * V : 0);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const int64_t c = first + (w.last ? j : 0);
    x[j] = !w.last || c < w.columns ? rstd[c] : A(0);
  }
}

// The slopes of this thread's channels. One program of each group also writes the weight's gradient.
template <class F, class A = typename F::wide, int V = F::count>
CVK_DEVICE void slopes_of_group(const Walk& w, const Program& p, const Through<A>& norm, A (&alpha)[V], A (&beta)[V]) {
  CVK_SHARED(Sum<A>, scratch, kThreads * V);
  CVK_SHARED(Sum<A>, totals, 32 * V);
  CVK_SHARED(A, alphas, 32 * V);
  CVK_SHARED(A, betas, 32 * V);
  if (norm.partial) add_up<V>(w, p.group, norm.partial, norm.programs, scratch, totals);
  const int64_t first = first_channel<V>(w, p.group);
  for (int t = threadIdx.x; t < channels_of<V>(w); t += kThreads) {
    const int64_t c = first + t;
    if (w.last && c >= w.columns) continue;
    const A weight = norm.weight.data ? read<typename F::type>(norm.weight, c) : A(1);
    const A sum = norm.partial ? totals[t].value : A(0);
    const Slopes<A> slopes = slopes_of(norm.rstd[c], weight, sum, norm.count, norm.batch);
    alphas[t] = slopes.alpha, betas[t] = slopes.beta;
    if (p.k == 0 && norm.grad_weight.data) write<typename F::type>(norm.grad_weight, c, sum);
  }
  __syncthreads();
  spread<V>(w, alphas, alpha);
  spread<V>(w, betas, beta);
}

// --- host ------------------------------------------------------------------------------------------------------------

// The statistics of a forward: those of the batch, where they are wanted, are summed here. `kept` holds them until the
// launch that reads them is under way.
template <class A>
Norm<A> norm_of(const Tensor& z, const Planar& v, const std::optional<Tensor>& running,
                const std::optional<Tensor>& weight, const std::optional<Tensor>& batches, bool training,
                double momentum, double eps, const Tensor& rstd, Partials* kept) {
  const Vector power = vector_of(running, v.c, rstd, "running_power");
  const bool batch = training || !running.has_value();
  if (batch) *kept = power_partials(z, v);
  return {kept->template of<Sum<A>>(),
          kept->programs,
          static_cast<A>(v.n * v.s),
          static_cast<A*>(const_cast<void*>(power.data)),
          training && running.has_value(),
          training ? count_of(batches, z) : Count{nullptr, ScalarType::Float},
          static_cast<A>(momentum),
          static_cast<A>(eps),
          data<A>(rstd),
          vector_of(weight, v.c, z, "weight")};
}

inline void check_rstd(const Tensor& rstd, const Planar& v, const Tensor& like) {
  STD_TORCH_CHECK(rstd.scalar_type() == wide_of(like), "rstd must be float32, or float64 with float64 features");
  vector_of(rstd, v.c, like, "rstd");
}

// What a backward's second launch needs; `kept`: the sums of its first, or none.
template <class A>
Through<A> through_of(const Planar& v, const Tensor& z, const std::optional<Tensor>& weight, const Tensor& grad_weight,
                      const Tensor& rstd, bool batch, const Partials& kept) {
  const Vector none{nullptr, false};
  return {kept.template of<Sum<A>>(),
          kept.programs,
          static_cast<A>(v.n * v.s),
          data<const A>(rstd),
          vector_of(weight, v.c, z, "weight"),
          weight ? vector_of(grad_weight, v.c, z, "grad_weight") : none,
          batch};
}

// No position to add up: the running power is all there is, and the batch's is 0 / 0.
template <class A>
__global__ void rstd_of_nothing_kernel(const A* running, A* rstd, A eps, int64_t channels) {
  for (int64_t c = threadIdx.x; c < channels; c += kThreads) rstd[c] = running ? rstd_of(running[c], eps) : A(NAN);
}

template <class A>
void rstd_of_nothing(const std::optional<Tensor>& running, bool training, double eps, const Tensor& rstd) {
  const A* power = training ? nullptr : data_or_null<const A>(running);
  launch(rstd, rstd_of_nothing_kernel<A>, 1, power, data<A>(rstd), static_cast<A>(eps), rstd.numel());
}

}  // namespace cvk
