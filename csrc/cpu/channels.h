// What the normalising operations share: a walk by channel, and the statistics.
//
// Contiguous and interleaved features with long planes are walked channel by channel, all samples of one: what a reduction
// has read is still in the second-level cache when it is read again. Short planes are walked in the order they lie in: a
// jump to another page for each costs more than a second read of what the third-level cache holds (16x16 planes, N=64,
// C=32, float32, one thread: 0.19 ms by channel). In channels-last the channel is the fastest axis, so rows are walked,
// and each row's loop runs over a vector of per-channel numbers.
#pragma once

#include <cmath>

#include "simd.h"

namespace cvk {

// How a row's loop runs: STEP between elements, CHANNEL 1 where element i is channel i (per-channel numbers are vectors).
template <int64_t STEP, int64_t CHANNEL>
struct Walk {
  static constexpr int64_t step = STEP, channel = CHANNEL;
};

template <class F>
void with_walk(const Planar& v, F f) {
  if (v.layout == Layout::contiguous) {
    f(Walk<1, 0>{});
  } else if (v.layout == Layout::interleaved) {
    f(Walk<2, 0>{});
  } else {
    f(Walk<1, 1>{});
  }
}

template <class T, class W>
CVK_CLONES void power_row(W, const T* re, const T* im, int64_t count, T* sums) {
  if constexpr (W::channel) {
    CVK_SIMD
    for (int64_t i = 0; i < count; ++i) sums[i] += re[i] * re[i] + im[i] * im[i];
  } else {
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) {
      const T r = re[i * W::step], m = im[i * W::step];
      sum += r * r + m * m;
    }
    *sums += sum;
  }
}

constexpr int64_t ROW = 1024;      // elements summed in the feature's own precision before a double takes over
constexpr int64_t ROW_BLOCK = 64;  // rows of a channels-last task

// Channel by channel: f(channel, segment) with segment(g) calling g(offset of the real part, count) for each stretch.
template <class F>
void for_channels(const Planar& v, const F& f) {
  const int64_t per_channel = std::max<int64_t>(1, v.n * v.s);
  const int64_t step = v.position;
  torch::stable::parallel_for(0, v.c, std::max<int64_t>(1, GRAIN / per_channel), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      f(c, [&](const auto& g) {
        for (int64_t n = 0; n < v.n; ++n) {
          for (int64_t k = 0; k < v.s; k += ROW) {
            g(n * v.sample + c * v.channel + k * step, std::min(ROW, v.s - k));
          }
        }
      });
    }
  });
}

constexpr int64_t LONG_PLANE = 8192;  // bytes of one part of a plane from which a walk by channel pays

template <class T>
bool by_channel(const Planar& v) {
  return v.s * static_cast<int64_t>(sizeof(T)) >= LONG_PLANE;
}

// Plane by plane in memory order: f(plane, channel, segments) as above.
template <class F>
void for_planes(const Planar& v, const F& f) {
  const int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, v.s));
  torch::stable::parallel_for(0, v.n * v.c, grain, [&](int64_t begin, int64_t end) {
    int64_t n = begin / v.c, c = begin % v.c;
    for (int64_t p = begin; p < end; ++p) {
      f(p, c, [&](const auto& g) {
        for (int64_t k = 0; k < v.s; k += ROW) {
          g(n * v.sample + c * v.channel + k * v.position, std::min(ROW, v.s - k));
        }
      });
      if (++c == v.c) c = 0, ++n;
    }
  });
}

// Channels-last: f(block, first row, end row); a row is one position of one sample, its real part at row * 2C.
template <class F>
void for_row_blocks(const Planar& v, const F& f) {
  const int64_t rows = v.n * v.s, blocks = (rows + ROW_BLOCK - 1) / ROW_BLOCK;
  const int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, ROW_BLOCK * v.c));
  torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) f(b, b * ROW_BLOCK, std::min(rows, (b + 1) * ROW_BLOCK));
  });
}

inline int64_t row_blocks(const Planar& v) { return (v.n * v.s + ROW_BLOCK - 1) / ROW_BLOCK; }

// [*][C] partial sums of a reduction, added up in their order whatever the threads.
template <class T>
std::vector<double> fold(const std::vector<T>& partial, int64_t channels) {
  std::vector<double> sums(static_cast<size_t>(channels), 0.0);
  for (size_t k = 0; k < partial.size(); ++k) sums[k % channels] += static_cast<double>(partial[k]);
  return sums;
}

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
template <class T>
T channel_rstd(const Running& running, double rate, int64_t c, double sum, double count, double eps) {
  double mean;
  if (running.batch_statistics()) {
    mean = sum / count;
    if (running.training && running.power) {
      T& kept = data<T>(*running.power)[c];
      kept = static_cast<T>(kept + rate * (static_cast<T>(mean) - kept));
    }
  } else {
    mean = data<T>(*running.power)[c];
  }
  return static_cast<T>(1.0 / std::sqrt(mean + eps));
}

inline void check_norm(const Tensor& z, const Planar& v, const Running& running, const std::optional<Tensor>& weight) {
  if (running.power) {
    check_vector(*running.power, v.c, "running_power");
    STD_TORCH_CHECK(running.power->scalar_type() == z.scalar_type(), "running_power must have the dtype of z");
  }
  if (running.batches) STD_TORCH_CHECK(running.batches->numel() == 1, "batches must hold one element");
  if (weight) {
    check_vector(*weight, v.c, "weight");
    STD_TORCH_CHECK(weight->scalar_type() == z.scalar_type(), "weight must have the dtype of z");
  }
}

// Normalise with apply(walk, offset, count, scale pointer): statistics (where the batch's are wanted), running update, and
// the pass that writes. rstd [C] is filled; scale is rstd times the weight.
template <class T, class Apply>
void normalise(const Planar& v, const T* z, const Running& running, const T* weight, double eps, T* rstd, const Apply& apply) {
  const double count = static_cast<double>(v.n * v.s), rate = running.training ? running.rate() : 0.0;
  const bool batch = running.batch_statistics();
  const auto scale_of = [&](int64_t c) { return weight ? rstd[c] * weight[c] : rstd[c]; };
  with_walk(v, [&](auto walk) {
    using W = decltype(walk);
    if constexpr (W::channel == 0) {
      const auto power_of = [&](const auto& segments) {
        double sum = 0;
        segments([&](int64_t at, int64_t n) {
          T part = 0;
          power_row(walk, z + at, z + at + v.part, n, &part);
          sum += part;
        });
        return sum;
      };
      if (batch && by_channel<T>(v)) {
        for_channels(v, [&](int64_t c, const auto& segments) {
          rstd[c] = channel_rstd<T>(running, rate, c, power_of(segments), count, eps);
          const T scale = scale_of(c);
          segments([&](int64_t at, int64_t n) { apply(walk, at, n, &scale); });
        });
        return;
      }
      std::vector<double> partial(static_cast<size_t>(batch ? v.n * v.c : 0));
      if (batch) for_planes(v, [&](int64_t p, int64_t, const auto& segments) { partial[p] = power_of(segments); });
      const std::vector<double> sums = fold(partial, v.c);
      for (int64_t c = 0; c < v.c; ++c) rstd[c] = channel_rstd<T>(running, rate, c, sums[c], count, eps);
      for_planes(v, [&](int64_t, int64_t c, const auto& segments) {
        const T scale = scale_of(c);
        segments([&](int64_t at, int64_t n) { apply(walk, at, n, &scale); });
      });
    } else {
      std::vector<T> partial(static_cast<size_t>(batch ? row_blocks(v) * v.c : 0), T(0));
      if (batch) {
        for_row_blocks(v, [&](int64_t b, int64_t begin, int64_t end) {
          for (int64_t r = begin; r < end; ++r) {
            power_row(walk, z + r * 2 * v.c, z + r * 2 * v.c + v.c, v.c, partial.data() + b * v.c);
          }
        });
      }
      const std::vector<double> sums = fold(partial, v.c);
      std::vector<T> scale(static_cast<size_t>(v.c));
      for (int64_t c = 0; c < v.c; ++c) {
        rstd[c] = channel_rstd<T>(running, rate, c, sums[c], count, eps);
        scale[c] = scale_of(c);
      }
      for_row_blocks(v, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) apply(walk, r * 2 * v.c, v.c, scale.data());
      });
    }
  });
}

// The two passes of a backward: reduce(walk, offset, count, rstd, sums) adds Re(conj(x) g) per channel, x = rstd z the
// normalised feature; write(walk, offset, count, alpha, beta) gives alpha g + beta x. Through the batch's statistics
//   dL/dz = rstd (w g - x w E[Re(conj(x) g)]),  through frozen ones rstd w g.     grad_weight: the sums.
template <class T, class ReducePass, class WritePass>
void normalise_backward(const Planar& v, const T* rstd, const T* weight, bool batch, T* grad_weight, const ReducePass& reduce,
                        const WritePass& write) {
  const double count = static_cast<double>(v.n * v.s);
  const auto alpha_of = [&](int64_t c) { return weight ? rstd[c] * weight[c] : rstd[c]; };
  with_walk(v, [&](auto walk) {
    using W = decltype(walk);
    if constexpr (W::channel == 0) {
      const auto reduced = [&](int64_t c, const auto& segments) {
        double sum = 0;
        segments([&](int64_t at, int64_t n) {
          T part = 0;
          reduce(walk, at, n, rstd + c, &part);
          sum += part;
        });
        return sum;
      };
      const auto written = [&](int64_t c, double sum, const auto& segments) {
        const T alpha = alpha_of(c), beta = batch ? static_cast<T>(-alpha * (sum / count)) : T(0);
        segments([&](int64_t at, int64_t n) { write(walk, at, n, rstd + c, &alpha, &beta); });
      };
      if (by_channel<T>(v)) {
        for_channels(v, [&](int64_t c, const auto& segments) {
          const double sum = reduced(c, segments);
          if (grad_weight) grad_weight[c] = static_cast<T>(sum);
          written(c, sum, segments);
        });
        return;
      }
      std::vector<double> partial(static_cast<size_t>(v.n * v.c));
      for_planes(v, [&](int64_t p, int64_t c, const auto& segments) { partial[p] = reduced(c, segments); });
      const std::vector<double> sums = fold(partial, v.c);
      if (grad_weight) std::transform(sums.begin(), sums.end(), grad_weight, [](double x) { return static_cast<T>(x); });
      for_planes(v, [&](int64_t, int64_t c, const auto& segments) { written(c, sums[c], segments); });
    } else {
      std::vector<T> partial(static_cast<size_t>(row_blocks(v) * v.c), T(0));
      for_row_blocks(v, [&](int64_t b, int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) reduce(walk, r * 2 * v.c, v.c, rstd, partial.data() + b * v.c);
      });
      const std::vector<double> sums = fold(partial, v.c);
      std::vector<T> alpha(static_cast<size_t>(v.c)), beta(static_cast<size_t>(v.c));
      for (int64_t c = 0; c < v.c; ++c) {
        if (grad_weight) grad_weight[c] = static_cast<T>(sums[c]);
        alpha[c] = alpha_of(c);
        beta[c] = batch ? static_cast<T>(-alpha[c] * (sums[c] / count)) : T(0);
      }
      for_row_blocks(v, [&](int64_t, int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) write(walk, r * 2 * v.c, v.c, rstd, alpha.data(), beta.data());
      });
    }
  });
}

}  // namespace cvk
