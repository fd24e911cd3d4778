// What the magnitude norms share: the running power, the pass that normalises and its backward.
#pragma once

#include "../common/norm.h"
#include "channels.h"

namespace cvk {

// The running power and what it becomes.
struct Running {
  std::optional<Tensor> power;
  std::optional<Tensor> batches;
  bool training;
  double momentum;

  bool batch_statistics() const { return training || !power.has_value(); }
  double rate() const {
    if (!batches) return momentum;
    using torch::headeronly::ScalarType;
    const auto dtype = batches->scalar_type();
    if (dtype == ScalarType::Long) return 1.0 / static_cast<double>(data<int64_t>(*batches)[0]);
    if (dtype == ScalarType::Float) return 1.0 / static_cast<double>(data<float>(*batches)[0]);
    STD_TORCH_CHECK(dtype == ScalarType::Double, "batches must be int64, float32 or float64");
    return 1.0 / data<double>(*batches)[0];
  }
};

// 1 / sqrt(E|z|^2 + eps) of one channel from the sum of its powers, with the running update; or from the running power.
// A: float or double, as the running power is.
template <class A>
A channel_rstd(const Running& running, double rate, int64_t c, double sum, double count, double eps) {
  double mean;
  if (running.batch_statistics()) {
    mean = sum / count;
    if (running.training && running.power) {
      A& kept = data<A>(*running.power)[c];
      kept = static_cast<A>(moved<double>(kept, static_cast<A>(mean), rate));
    }
  } else {
    mean = data<A>(*running.power)[c];
  }
  return static_cast<A>(rstd_of(mean, eps));
}

inline void check_norm(const Tensor& z, const Planar& v, const Running& running, const std::optional<Tensor>& weight) {
  check_statistic(running.power, z, v.c, "running_power");
  if (running.batches) STD_TORCH_CHECK(running.batches->numel() == 1, "batches must hold one element");
  check_per_channel(weight, z, v.c, "weight");
}

// Normalise with apply(walk, lines, scale pointer): statistics (where the batch's are wanted), running update, and the
// pass that writes. rstd [C] is filled; scale is rstd times the weight.
template <class T, class Apply>
void normalise(const Planar& v, const T* z, const Running& running, const std::optional<Tensor>& weight, double eps,
               wide_t<T>* rstd, const Apply& apply) {
  using A = wide_t<T>;
  const double count = static_cast<double>(v.n * v.s), rate = running.training ? running.rate() : 0.0;
  const bool batch = running.batch_statistics();
  std::vector<A> scale = channel_values<A>(weight);
  if (!weight) scale.assign(static_cast<size_t>(v.c), A(1));
  const auto settle = [&](int64_t c, double sum) {
    rstd[c] = channel_rstd<A>(running, rate, c, sum, count, eps);
    scale[c] *= rstd[c];
  };
  with_walk(v, [&](auto walk) {
    using W = decltype(walk);
    if constexpr (W::channel == 0) {
      if (batch && by_channel<T>(v)) {
        for_channels(v, [&](int64_t c, Lines lines) {
          double sum = 0;
          power_lines(walk, z + lines.first, z + lines.first + v.part, lines, &sum);
          settle(c, sum);
          apply(walk, lines, scale.data() + c);
        });
        return;
      }
    }
    const std::vector<double> sums = batch ? power_sums(v, z) : std::vector<double>(scale.size(), 0.0);
    for (int64_t c = 0; c < v.c; ++c) settle(c, sums[c]);
    const Planar wide = widened(v);
    const std::vector<A> scales = repeated(scale.data(), v, wide);
    write_all(walk, wide, [&](auto w, Lines lines, int64_t c) { apply(w, lines, scales.data() + c); });
  });
}

// The two passes of a backward: reduce(walk, lines, rstd, sums) adds Re(conj(x) g) per channel, x = rstd z the
// normalised feature, and whole(walk, widened, reduce) gives the sums over all of it; write(walk, lines, rstd, alpha,
// beta) gives alpha g + beta x. Through the batch's statistics
//   dL/dz = rstd (w g - x w E[Re(conj(x) g)]),  through frozen ones rstd w g, which need no sums.
// Returns the sums: the gradient of the weight.
template <class T, class Reduce, class Whole, class Write>
std::vector<wide_t<T>> normalise_backward(const Planar& v, const wide_t<T>* rstd, const std::optional<Tensor>& weight,
                                          bool batch, const Reduce& reduce, const Whole& whole, const Write& write) {
  using A = wide_t<T>;
  const double count = static_cast<double>(v.n * v.s);
  const std::vector<A> scale = channel_values<A>(weight);
  std::vector<A> alpha(static_cast<size_t>(v.c)), beta(alpha.size()), grad_weight(alpha.size());
  const auto settle = [&](int64_t c, double sum) {
    grad_weight[c] = static_cast<A>(sum);
    const auto slopes = slopes_of<double>(rstd[c], weight ? scale[c] : A(1), sum, count, batch);
    alpha[c] = static_cast<A>(slopes.alpha), beta[c] = static_cast<A>(slopes.beta);
  };
  const bool sums_wanted = batch || weight;
  with_walk(v, [&](auto walk) {
    using W = decltype(walk);
    if constexpr (W::channel == 0) {
      if (sums_wanted && by_channel<T>(v)) {
        for_channels(v, [&](int64_t c, Lines lines) {
          double sum = 0;
          reduce(walk, lines, rstd + c, &sum);
          settle(c, sum);
          write(walk, lines, rstd + c, alpha.data() + c, beta.data() + c);
        });
        return;
      }
    }
    const Planar wide = widened(v);
    const std::vector<A> rstds = repeated(rstd, v, wide);
    const auto each = [&](auto w, Lines lines, auto* into, int64_t c) { reduce(w, lines, rstds.data() + c, into); };
    const std::vector<double> sums = sums_wanted ? whole(walk, wide, each) : std::vector<double>(alpha.size(), 0.0);
    for (int64_t c = 0; c < v.c; ++c) settle(c, sums[c]);
    const std::vector<A> alphas = repeated(alpha.data(), v, wide), betas = repeated(beta.data(), v, wide);
    write_all(walk, wide, [&](auto w, Lines lines, int64_t c) {
      write(w, lines, rstds.data() + c, alphas.data() + c, betas.data() + c);
    });
  });
  return grad_weight;
}

}  // namespace cvk
