// y = relu((x - mean) rstd w + b + residual) of a real feature; its gradient is masked by y > 0
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "moments.h"
#include "norm.h"

namespace cvk {
namespace {

template <class T, class W>
CVK_CLONES void forward_lines(W, const T* x, const T* residual, T* out, Lines lines, const wide_t<T>* mean,
                              const wide_t<T>* scale, const wide_t<T>* offset) {
  using A = wide_t<T>;
  for (int64_t line = 0; line < lines.count; ++line) {
    const int64_t at = lines.first + line * lines.stride;
    const T* extra = residual ? residual : x;
    const A kept = residual ? A(1) : A(0);
    CVK_SIMD
    for (int64_t i = 0; i < lines.length; ++i) {
      const A value = x[at + i], more = extra[at + i];
      const A normed = (value - mean[i * W::channel]) * scale[i * W::channel] + offset[i * W::channel];
      const A y = kept > A(0) ? normed + more : normed;
      out[at + i] = relu(y);
    }
    mean += lines.advance, scale += lines.advance, offset += lines.advance;
  }
}

// What the backward reads.
template <class T>
struct Read {
  const T *g, *y, *x;
};

// Adds g and x^ g of the elements that passed, x^ = (x - mean) rstd.
template <class T, class W>
CVK_CLONES void sum_lines(W, Read<T> from, Lines lines, const wide_t<T>* mean, const wide_t<T>* rstd, sum_t<T, W>* sums,
                          sum_t<T, W>* products) {
  using A = wide_t<T>;
  for (int64_t line = 0; line < lines.count; ++line) {
    const int64_t at = lines.first + line * lines.stride;
    A sum = 0, product = 0;
#pragma omp simd reduction(+ : sum, product)
    for (int64_t i = 0; i < lines.length; ++i) {
      const A y = from.y[at + i], given = from.g[at + i], x = from.x[at + i];
      const A g = y <= A(0) ? A(0) : given;
      const A term = (x - mean[i * W::channel]) * rstd[i * W::channel] * g;
      if constexpr (W::channel) {
        sums[i] += g;
        products[i] += term;
      } else {
        sum += g;
        product += term;
      }
    }
    if constexpr (!W::channel) *sums += sum, *products += product;
    mean += lines.advance, rstd += lines.advance, sums += lines.advance, products += lines.advance;
  }
}

// dL/dx = alpha g + beta (x - mean) + gamma, and g itself for the residual. beta 0: frozen statistics, and an infinite
// x has no part in it.
template <class T, class W>
CVK_CLONES void combine_lines(W, Read<T> from, T* out, T* residual, Lines lines, const wide_t<T>* mean,
                              const wide_t<T>* alpha, const wide_t<T>* beta, const wide_t<T>* gamma) {
  using A = wide_t<T>;
  for (int64_t line = 0; line < lines.count; ++line) {
    const int64_t at = lines.first + line * lines.stride;
    CVK_SIMD
    for (int64_t i = 0; i < lines.length; ++i) {
      const A y = from.y[at + i], given = from.g[at + i], x = from.x[at + i];
      const A g = y <= A(0) ? A(0) : given;
      const int64_t c = i * W::channel;
      out[at + i] = alpha[c] * g + ((beta[c] == A(0) ? A(0) : beta[c] * (x - mean[c])) + gamma[c]);
    }
    if (residual) {
      CVK_SIMD
      for (int64_t i = 0; i < lines.length; ++i) {
        const A y = from.y[at + i], given = from.g[at + i];
        residual[at + i] = y <= A(0) ? A(0) : given;
      }
    }
    mean += lines.advance, alpha += lines.advance, beta += lines.advance, gamma += lines.advance;
  }
}

void check_norm(const Tensor& x, const Planar& v, const std::optional<Tensor>& running_mean,
                const std::optional<Tensor>& running_var, const std::optional<Tensor>& weight,
                const std::optional<Tensor>& bias) {
  check_statistic(running_mean, x, v.c, "running_mean");
  check_statistic(running_var, x, v.c, "running_var");
  check_per_channel(weight, x, v.c, "weight");
  check_per_channel(bias, x, v.c, "bias");
}

std::tuple<Tensor, Tensor, Tensor> forward(Tensor x, std::optional<Tensor> running_mean,
                                           std::optional<Tensor> running_var, std::optional<Tensor> weight,
                                           std::optional<Tensor> bias, std::optional<Tensor> residual,
                                           std::optional<Tensor> batches, bool training, double momentum, double eps) {
  const Planar v = real_view(x, "x"), wide = widened(v);
  const Running running{running_mean, batches, training, momentum};
  check_norm(x, v, running_mean, running_var, weight, bias);
  STD_TORCH_CHECK(running_mean.has_value() == running_var.has_value(), "running_mean and running_var come together");
  if (batches) STD_TORCH_CHECK(batches->numel() == 1, "batches must hold one element");
  if (residual) check_real(*residual, v, x, "residual");
  Tensor out = empty_as(x), mean = wide_empty(x, {v.c}), rstd = wide_empty(x, {v.c});
  with_dtype(x, "real_batch_norm_relu", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    const T *in = data<T>(x), *res = data_or_null<T>(residual);
    T* to = data<T>(out);
    A *m = data<A>(mean), *r = data<A>(rstd);
    std::vector<A> scale = channel_values<A>(weight), offset = channel_values<A>(bias);
    if (!weight) scale.assign(static_cast<size_t>(v.c), A(1));
    if (!bias) offset.assign(static_cast<size_t>(v.c), A(0));
    const bool batch = running.batch_statistics();
    const double count = static_cast<double>(v.n * v.s), rate = training ? running.rate() : 0.0;
    const auto settle = [&](int64_t c, double average, double square) {
      double variance = square / count;
      if (!batch) {
        average = data<A>(*running_mean)[c], variance = data<A>(*running_var)[c];
      } else if (training && running_mean) {
        A &kept = data<A>(*running_mean)[c], &spread = data<A>(*running_var)[c];
        kept = static_cast<A>(moved<double>(kept, average, rate));
        spread = static_cast<A>(moved<double>(spread, square / (count - 1), rate));  // unbiased, as torch keeps it
      }
      m[c] = static_cast<A>(average);
      r[c] = static_cast<A>(rstd_of(variance, eps));
      scale[c] *= r[c];
    };
    const auto write = [&](auto walk, Lines lines, const A* mean, const A* scale, const A* offset) {
      forward_lines(walk, in, res, to, lines, mean, scale, offset);
    };
    if (batch && v.layout == Layout::contiguous && by_channel<T>(v)) {
      for_channels(v, [&](int64_t c, Lines lines) {
        double average, square;
        channel_moments(Walk<1, 0>{}, in, lines, &average, &square);
        settle(c, average, square);
        write(Walk<1, 0>{}, lines, m + c, &scale[c], &offset[c]);
      });
      return;
    }
    const ChannelMoments moments = batch ? narrowed(moments_of(wide, in), v.c) : ChannelMoments(v.c);
    for (int64_t c = 0; c < v.c; ++c) settle(c, moments.mean[c], moments.square[c]);
    const auto means = repeated(m, v, wide), scales = repeated(scale.data(), v, wide);
    const auto offsets = repeated(offset.data(), v, wide);
    with_walk(v, [&](auto walk) {
      write_all(walk, wide,
                [&](auto w, Lines lines, int64_t c) { write(w, lines, &means[c], &scales[c], &offsets[c]); });
    });
  });
  return {out, mean, rstd};
}

// The sums of g and of x^ g per channel over the whole feature.
template <class T, class W, class Sum>
std::pair<std::vector<double>, std::vector<double>> both_sums(W walk, const Planar& v, int64_t channels,
                                                              const Sum& sum) {
  const int64_t pieces = W::channel ? row_blocks(v) : v.n;
  std::vector<sum_t<T, W>> sums(static_cast<size_t>(pieces * v.c), 0), products(sums.size(), 0);
  if constexpr (W::channel) {
    for_row_blocks(v, [&](int64_t b, Lines lines) { sum(walk, lines, 0, &sums[b * v.c], &products[b * v.c]); });
  } else {
    for_planes(v, false, [&](int64_t p, int64_t c, Lines lines) { sum(walk, lines, c, &sums[p], &products[p]); });
  }
  return {fold(sums, channels), fold(products, channels)};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(Tensor grad, Tensor out, Tensor x, std::optional<Tensor> weight,
                                                    Tensor mean, Tensor rstd, bool training, bool has_residual) {
  const Planar v = real_view(x, "x"), wide = widened(v);
  check_real(grad, v, x, "grad");
  check_real(out, v, x, "out");
  check_norm(x, v, mean, rstd, weight, std::nullopt);
  Tensor grad_x = empty_as(x);
  Tensor grad_residual = has_residual ? empty_as(x) : none_like(x);
  Tensor grad_weight = weight ? empty_as(*weight) : none_like(x);
  Tensor grad_bias = weight ? empty_as(*weight) : none_like(x);
  with_dtype(x, "real_batch_norm_relu", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    const Read<T> from{data<T>(grad), data<T>(out), data<T>(x)};
    T *to = data<T>(grad_x), *res = has_residual ? data<T>(grad_residual) : nullptr;
    const A *m = data<A>(mean), *r = data<A>(rstd);
    const double count = static_cast<double>(v.n * v.s);
    const std::vector<A> scale = channel_values<A>(weight);
    std::vector<A> alpha(static_cast<size_t>(v.c)), beta(alpha.size()), gamma(alpha.size());
    std::vector<A> sums(alpha.size()), products(alpha.size());
    const auto settle = [&](int64_t c, double sum, double product) {
      sums[c] = static_cast<A>(sum), products[c] = static_cast<A>(product);
      const double a = (weight ? static_cast<double>(scale[c]) : 1.0) * r[c];
      alpha[c] = static_cast<A>(a);
      beta[c] = training ? static_cast<A>(-a * (product / count) * r[c]) : A(0);
      gamma[c] = training ? static_cast<A>(-a * (sum / count)) : A(0);
    };
    const auto means = repeated(m, v, wide), rstds = repeated(r, v, wide);
    const auto reduce = [&](auto walk, Lines lines, int64_t c, auto* sum, auto* product) {
      sum_lines(walk, from, lines, &means[c], &rstds[c], sum, product);
    };
    const bool wanted = training || weight;
    with_walk(v, [&](auto walk) {
      if (wanted && v.layout == Layout::contiguous && by_channel<T>(v)) {
        for_channels(v, [&](int64_t c, Lines lines) {
          double sum = 0, product = 0;
          reduce(Walk<1, 0>{}, lines, c, &sum, &product);
          settle(c, sum, product);
          combine_lines(Walk<1, 0>{}, from, to, res, lines, m + c, &alpha[c], &beta[c], &gamma[c]);
        });
        return;
      }
      std::vector<double> all(alpha.size(), 0.0), dots(alpha.size(), 0.0);
      if (wanted) std::tie(all, dots) = both_sums<T>(walk, wide, v.c, reduce);
      for (int64_t c = 0; c < v.c; ++c) settle(c, all[c], dots[c]);
      const auto alphas = repeated(alpha.data(), v, wide), betas = repeated(beta.data(), v, wide);
      const auto gammas = repeated(gamma.data(), v, wide);
      write_all(walk, wide, [&](auto w, Lines lines, int64_t c) {
        combine_lines(w, from, to, res, lines, &means[c], &alphas[c], &betas[c], &gammas[c]);
      });
    });
    store_channels(products, grad_weight);
    store_channels(sums, grad_bias);
  });
  return {grad_x, grad_residual, grad_weight, grad_bias};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("real_batch_norm_relu_forward", TORCH_BOX(&cvk::forward));
  m.impl("real_batch_norm_relu_backward", TORCH_BOX(&cvk::backward));
}
