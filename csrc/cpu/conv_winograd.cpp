// A complex convolution with a 3x3 kernel and stride 1 by Winograd's filtering, features in float32 or bfloat16, all
// else in float32: forward (which is the gradient of the features as well, with the kernel turned and transposed) and
// the gradient of the weights.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../common/shape.h"
#include "not_finite.h"
#include "winograd_tiles.h"
#include "winograd_weight.h"

namespace cvk {
namespace {

constexpr int64_t TILES = 32;  // of a task, about: 32 x 16 points x 96 channels are 196 KiB
// Each task of a forward reads the whole weight. Where that leaves the second-level cache, more tiles at once, as long
// as each thread has some tasks (two threads, 2 MiB of it each: 8x256x56x56 took 221 to 249 ms by 32, 187 so).
constexpr int64_t MORE_TILES = 128, LARGE_WEIGHT = 1 << 19, TASKS = 4;
// The gradient of the weights is the work of units, the same for any number of threads: each adds up some of the tiles
// for some of the input channels.
constexpr int64_t UNITS = 16;
constexpr int64_t EACH = 256;      // tiles of a unit at least: to clear its sums and to add them up takes as long as 8
constexpr int64_t CHANNELS = 64;   // input channels of a unit at most: its sums should not leave the cache
constexpr int64_t MOST = 1 << 24;  // elements of all sums

// --- one clone for each width of vector ---

template <class Work>
using Worker = void (*)(const Work&, int64_t, int64_t);

template <class T>
struct Convolution {
  Worker<Job<T>> convolve, add_weights;
};

struct Workers {
  Worker<Kernels> enter_weights, leave_weights;
  Convolution<float> whole;
  Convolution<StoredBFloat16> half;

  const Convolution<float>& of(float) const { return whole; }
  const Convolution<StoredBFloat16>& of(StoredBFloat16) const { return half; }
};

#define CVK_WORKER(name, as, Work, set, L, DIRECT, ...)                                \
  __VA_ARGS__ void name##_##as##_##set(const Work& work, int64_t begin, int64_t end) { \
    name<L, DIRECT>(work, begin, end);                                                 \
  }
#define CVK_WORKERS(set, L, DIRECT, ...)                                           \
  CVK_WORKER(enter_weights, all, Kernels, set, L, DIRECT, __VA_ARGS__)             \
  CVK_WORKER(leave_weights, all, Kernels, set, L, DIRECT, __VA_ARGS__)             \
  CVK_WORKER(convolve, whole, Job<float>, set, L, DIRECT, __VA_ARGS__)             \
  CVK_WORKER(convolve, half, Job<StoredBFloat16>, set, L, DIRECT, __VA_ARGS__)     \
  CVK_WORKER(add_weights, whole, Job<float>, set, L, DIRECT, __VA_ARGS__)          \
  CVK_WORKER(add_weights, half, Job<StoredBFloat16>, set, L, DIRECT, __VA_ARGS__)  \
  constexpr Workers workers_##set{enter_weights_all_##set,                         \
                                  leave_weights_all_##set,                         \
                                  {convolve_whole_##set, add_weights_whole_##set}, \
                                  {convolve_half_##set, add_weights_half_##set}};

// What is done again directly is rare: the vectors that every processor has will do.
#if defined(CVK_VECTORS)
CVK_WORKERS(4, 4, false)
CVK_WORKERS(direct, 4, true)
#if defined(CVK_TARGETS)
CVK_WORKERS(8, 8, false, CVK_TARGET_8)
CVK_WORKERS(16, 16, false, CVK_TARGET_16)
#endif
#else
CVK_WORKERS(1, 1, false)
CVK_WORKERS(direct, 1, true)
#endif

// lanes: 0 for as many as this processor has
const Workers& workers(int64_t lanes) {
  STD_TORCH_CHECK(lanes <= lanes_here(), "lanes must be at most ", lanes_here(), " on this processor");
#if defined(CVK_TARGETS)
  lanes = lanes == 0 ? lanes_here() : lanes;
  return lanes == 16 ? workers_16 : lanes == 8 ? workers_8 : workers_4;
#elif defined(CVK_VECTORS)
  return workers_4;
#else
  return workers_1;
#endif
}

// --- operators ---

template <class T>
Side<T> side_of(const Tensor& z, const char* name) {
  const Planar v = planar(z, name, true);
  STD_TORCH_CHECK(v.layout != Layout::interleaved, name, " must not be interleaved");
  return {data<T>(z), v, v.c, z.size(3), z.size(4)};
}

// f(T{}) for the dtype of features
template <class F>
void with_feature(const Tensor& z, const char* name, const F& f) {
  const bool whole = z.scalar_type() == ScalarType::Float;
  STD_TORCH_CHECK(z.dim() == 5 && (whole || z.scalar_type() == ScalarType::BFloat16), name,
                  " must be [N, 2, C, H, W], float32 or bfloat16");
  whole ? f(float{}) : f(StoredBFloat16{});
}

void check_kernel(const Tensor& w, int64_t out, int64_t in, const char* name) {
  STD_TORCH_CHECK(w.dim() == 4 && w.size(0) == out && w.size(1) == in && w.size(2) == 3 && w.size(3) == 3 &&
                      w.is_contiguous() && w.scalar_type() == ScalarType::Float,
                  name, " must be [O, I, 3, 3] of the features' channels, contiguous, float32");
}

// f(begin, end) over input channels
template <class F>
void for_inputs(const Kernels& w, const F& f) {
  const int64_t each = 2 * w.count() * POINTS * w.row() * std::max<int64_t>(1, w.partials);
  torch::stable::parallel_for(0, w.in, std::max<int64_t>(1, GRAIN / each), f);
}

template <class T>
void check_geometry(const Job<T>& j) {
  STD_TORCH_CHECK(j.top >= 0 && j.top <= 2 && j.left >= 0 && j.left <= 2, "padding must be 0, 1 or 2");
  STD_TORCH_CHECK(j.out.v.n == j.in.v.n && j.out.h == j.in.h + 2 * j.top - 2 && j.out.w == j.in.w + 2 * j.left - 2,
                  "the result must have the samples and the size that z and the padding give");
}

template <class T>
int64_t forward_tiles(const Job<T>& j) {
  const int64_t all = j.out.v.n * ((j.out.h + 1) / 2) * ((j.out.w + 1) / 2);
  if (j.weight_size() <= LARGE_WEIGHT) return TILES;
  return std::max(TILES, std::min(MORE_TILES, all / (TASKS * torch::stable::get_num_threads())));
}

// f(workers), and again with those that work directly where that gave what is not finite, unless it `stands`.
template <class T, class Stands, class F>
void until_finite(Job<T>& j, int64_t lanes, const Stands& stands, const F& f) {
  std::atomic<bool> spoiled{false};
  j.spoiled = &spoiled;
  f(workers(lanes));
  if (spoiled.load() && !stands()) f(workers_direct);
}

// layout: 0 contiguous, 1 channels-last, 2 planes-last
Tensor result(const Tensor& z, int64_t c, int64_t h, int64_t w, int64_t layout) {
  const int64_t n = z.size(0), s = h * w;
  const std::vector<int64_t> sizes{n, 2, c, h, w};
  STD_TORCH_CHECK(h > 0 && w > 0, "z must be no smaller than the kernel, with the padding");
  STD_TORCH_CHECK(layout >= 0 && layout <= 2, "layout must be 0, 1 or 2");
  if (layout == 1) return strided_like(z, sizes, {2 * c * s, c, 1, 2 * c * w, 2 * c});
  if (layout == 2) return strided_like(z, sizes, {2 * c * s, c * s, 1, c * w, c});
  return empty_of(z, sizes);
}

Tensor run(const Tensor& z, const Tensor& re, const std::optional<Tensor>& im, const std::vector<int64_t>& padding,
           bool back, int64_t layout, int64_t lanes, const std::optional<Tensor>& scale,
           const std::optional<Tensor>& residual, double c) {
  STD_TORCH_CHECK(padding.size() == 2, "padding must be a pair");
  std::optional<Tensor> out;
  with_feature(z, "z", [&](auto zero) {
    using T = decltype(zero);
    Job<T> j{};
    j.in = side_of<T>(z, "z");
    const int64_t channels = re.size(back ? 1 : 0);
    check_kernel(re, back ? j.in.c : channels, back ? channels : j.in.c, "re");
    if (im) check_kernel(*im, re.size(0), re.size(1), "im");
    j.top = padding[0], j.left = padding[1], j.complex = im.has_value(), j.channels = j.in.c;
    out = result(z, channels, j.in.h + 2 * j.top - 2, j.in.w + 2 * j.left - 2, layout);
    j.out = side_of<T>(*out, "out");
    check_geometry(j);
    if (scale) {
      check_vector(*scale, channels, "scale");
      STD_TORCH_CHECK(scale->scalar_type() == ScalarType::Float, "scale must be float32");
      STD_TORCH_CHECK(layout != 2, "a result that the ReLU follows is contiguous or channels-last");
      if (residual) check_alike(*residual, j.out.v, *out, "residual");
      j.relu = {data<const float>(*scale), data_or_null<const T>(residual), static_cast<float>(c)};
    }
    if (out->numel() == 0) return;
    if (j.in.c == 0) return void(torch::stable::zero_(*out));
    const Tensor points = empty_of(z, {j.weight_size()}, ScalarType::Float);
    j.weight = data<float>(points);
    j.cut(forward_tiles(j));
    const auto stands = [&] {
      NotFinite given;
      given.look(j.in.data, z.numel()), given.look(data<float>(re), re.numel());
      if (im) given.look(data<float>(*im), im->numel());
      return given.stands();
    };
    until_finite(j, lanes, stands, [&](const Workers& work) {
      const auto convolve = work.of(zero).convolve;
      const Kernels w{data<float>(re), im ? data<float>(*im) : nullptr, j.in.c, channels, back, j.weight, 1, nullptr};
      for_inputs(w, [&](int64_t begin, int64_t end) { work.enter_weights(w, begin, end); });
      torch::stable::parallel_for(0, j.tasks(), 1, [&](int64_t begin, int64_t end) { convolve(j, begin, end); });
    });
  });
  return *out;
}

Tensor forward(Tensor z, Tensor re, std::optional<Tensor> im, std::vector<int64_t> padding, bool back, int64_t layout,
               int64_t lanes) {
  return run(z, re, im, padding, back, layout, lanes, std::nullopt, std::nullopt, 1.0);
}

Tensor relu_forward(Tensor z, Tensor re, std::optional<Tensor> im, std::vector<int64_t> padding, Tensor scale,
                    std::optional<Tensor> residual, int64_t layout, double c) {
  return run(z, re, im, padding, false, layout, 0, scale, residual, c);
}

std::tuple<Tensor, Tensor> backward(Tensor grad, Tensor z, bool complex, std::vector<int64_t> padding, int64_t lanes) {
  STD_TORCH_CHECK(padding.size() == 2, "padding must be a pair");
  STD_TORCH_CHECK(grad.dim() == 5 && grad.scalar_type() == z.scalar_type(), "grad must be like z, of its dtype");
  std::optional<Tensor> re, im;
  with_feature(z, "z", [&](auto zero) {
    using T = decltype(zero);
    Job<T> j{};
    j.in = side_of<T>(z, "z"), j.out = side_of<T>(grad, "grad");
    j.top = padding[0], j.left = padding[1], j.complex = complex;
    check_geometry(j);
    const int64_t in = j.in.c, out = j.out.c;
    re = empty_of(z, {out, in, 3, 3}, ScalarType::Float);
    im = complex ? empty_as(*re) : none_like(*re);
    if (re->numel() == 0) return;
    j.channels = in;
    j.blocks = (in + CHANNELS - 1) / CHANNELS;
    j.cut(TILES);
    const int64_t most = std::min({UNITS / j.blocks, j.across * j.down * j.in.v.n / EACH, MOST / j.weight_size()});
    for (j.chunks = 1; 2 * j.chunks <= most;) j.chunks *= 2;
    const Tensor partial = empty_of(*re, {j.chunks * j.weight_size()});
    j.partial = data<float>(partial);
    // a point of the inputs is in the gradient of every tap, also of those that its window does not reach
    const auto stands = [&] { return all_nan(j.in.data, z.numel()) || all_nan(j.out.data, grad.numel()); };
    until_finite(j, lanes, stands, [&](const Workers& work) {
      const auto add = work.of(zero).add_weights;
      torch::stable::parallel_for(0, j.chunks * j.blocks, 1, [&](int64_t begin, int64_t end) { add(j, begin, end); });
      const Kernels w{data<float>(*re), complex ? data<float>(*im) : nullptr, in, out, false, j.partial, j.chunks,
                      j.spoiled};
      for_inputs(w, [&](int64_t begin, int64_t end) { work.leave_weights(w, begin, end); });
    });
  });
  return {*re, *im};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("conv_winograd_forward", TORCH_BOX(&cvk::forward));
  m.impl("conv_winograd_relu_forward", TORCH_BOX(&cvk::relu_forward));
  m.impl("conv_winograd_backward", TORCH_BOX(&cvk::backward));
}
