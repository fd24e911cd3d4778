// What the rotations share: cosine and sine of each sample's angle, and the gradient with respect to it.
#pragma once

#include "../common/rotation.h"
#include "results.h"

namespace cvk {

// e^{i theta} of every angle. T is float or double.
template <class T>
std::vector<Complex<T>> turns_of(const Tensor& theta) {
  std::vector<Complex<T>> turns(static_cast<size_t>(theta.numel()));
  const bool wide = theta.scalar_type() == torch::headeronly::ScalarType::Double;
  STD_TORCH_CHECK(wide || theta.scalar_type() == torch::headeronly::ScalarType::Float,
                  "theta must be float32 or float64");
  for (size_t k = 0; k < turns.size(); ++k) {
    turns[k] = turn_of<T>(wide ? data<double>(theta)[k] : static_cast<double>(data<float>(theta)[k]));
  }
  return turns;
}

// Sum of Im(conj(x) g): dL/dtheta of x = z e^{i theta}.
template <class T, int64_t STEP>
CVK_CLONES double cross(const T* re, const T* im, const T* g_re, const T* g_im, const Block& b) {
  using A = wide_t<T>;
  double sum = 0;
  for (int64_t row = 0; row < b.rows; ++row) {
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < b.count; ++i) {
      const A x = re[i * STEP], y = im[i * STEP], p = g_re[i * STEP], q = g_im[i * STEP];
      sum += turn_slope(x, y, p, q);
    }
    re += b.stride, im += b.stride, g_re += b.stride, g_im += b.stride;
  }
  return sum;
}

// Partial sums per task, added up per angle in the order of the tasks: the same whatever the number of threads.
class AngleSum {
 public:
  AngleSum(const Planar& v, bool wanted, int64_t angles_per_sample = 1)
      : tasks_(wanted ? runs(v).tasks(v) : 0),
        angles_(v.n * angles_per_sample),
        each_(angles_per_sample),
        partial_(static_cast<size_t>(tasks_ * each_), 0.0) {}

  void add(int64_t task, double sum, int64_t angle = 0) { partial_[task * each_ + angle] += sum; }

  void write(const Tensor& grad_theta) const {
    if (grad_theta.numel() == 0) return;
    const int64_t samples = angles_ / each_, per_sample = samples ? tasks_ / samples : 0;
    for (int64_t n = 0; n < samples; ++n) {
      for (int64_t k = 0; k < each_; ++k) {
        double sum = 0;
        for (int64_t t = n * per_sample; t < (n + 1) * per_sample; ++t) sum += partial_[t * each_ + k];
        if (grad_theta.scalar_type() == torch::headeronly::ScalarType::Double) {
          data<double>(grad_theta)[n * each_ + k] = sum;
        } else {
          data<float>(grad_theta)[n * each_ + k] = static_cast<float>(sum);
        }
      }
    }
  }

 private:
  int64_t tasks_, angles_, each_;
  std::vector<double> partial_;
};

}  // namespace cvk
