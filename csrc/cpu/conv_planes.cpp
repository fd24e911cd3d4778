// Planar features to the planes that oneDNN's convolutions read without a reorder of their own, and back; the sums of a
// Gauss product on the way.
#include <torch/csrc/stable/library.h>

#include "../common/shape.h"
#include "planes.h"

namespace cvk {
namespace {

constexpr const char* NAME = "conv_planes";
constexpr int64_t SPAN = 64;  // positions of a task: with 256 channels its rows still fit the second-level cache

template <class F>
void with_form(int64_t form, F f) {
  switch (form) {
    case PARTS:
      return f(std::integral_constant<int64_t, PARTS>{});
    case SUM:
      return f(std::integral_constant<int64_t, SUM>{});
    case DIFFERENCE:
      return f(std::integral_constant<int64_t, DIFFERENCE>{});
    case BLOCK:
      return f(std::integral_constant<int64_t, BLOCK>{});
    case TURNS:
      return f(std::integral_constant<int64_t, TURNS>{});
    default:
      STD_TORCH_CHECK(false, "form must be 0 to 4");
  }
}

int64_t planes_of(int64_t form) { return form == BLOCK || form == TURNS ? 1 : form == PARTS ? 2 : 3; }

// f(sample, first position, one past the last): SPAN positions a task, over threads
template <class F>
void for_spans(int64_t samples, int64_t channels, int64_t positions, const F& f) {
  if (samples * channels * positions == 0) return;
  const int64_t spans = (positions + SPAN - 1) / SPAN;
  const int64_t grain = std::max<int64_t>(1, GRAIN / (2 * channels * std::min(positions, SPAN)));
  torch::stable::parallel_for(0, samples * spans, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t at = task % spans * SPAN;
      f(task / spans, at, std::min(positions, at + SPAN));
    }
  });
}

Tensor forward(Tensor z, int64_t form) {
  const Planar v = planar(z, "z");
  STD_TORCH_CHECK(z.dim() == 5 && v.layout != Layout::interleaved, "z must be [N, 2, C, H, W], not interleaved");
  const int64_t count = planes_of(form), h = z.size(3), w = z.size(4), row = form == BLOCK ? 2 * v.c : v.c;
  const int64_t samples = form == TURNS ? 2 * v.n : v.n;
  const Tensor out = strided_like(z, {count, samples, row, h, w}, {samples * v.s * row, v.s * row, 1, w * row, row});
  with_stored(z.scalar_type(), NAME, [&](auto zero) {
    using T = decltype(zero);
    with_form(form, [&](auto known) {
      const T* from = data<T>(z);
      T* to = data<T>(out);
      const int64_t plane = form == BLOCK ? v.c : form == TURNS ? v.s * v.c : v.n * v.s * v.c;
      for_spans(v.n, v.c, v.s, [&](int64_t n, int64_t begin, int64_t end) {
        T* first = to + (form == TURNS ? 2 * n : n) * v.s * row;
        const Rows<T> rows{{first, first + plane, count == 3 ? first + 2 * plane : first}, row};
        const T* sample = from + n * v.sample;
        if (v.layout == Layout::channels_last) {
          split_rows<T, known()>(sample, rows, v.c, begin, end);
        } else {
          split_span<T, known()>(sample, sample + v.part, rows, v.c, v.s, begin, end);
        }
      });
    });
  });
  return out;
}

// What follows on the spans that have just been written; nothing where there is no scale.
struct Relu {
  std::optional<Tensor> scale, residual;
  double c;
};

Tensor joined(const std::vector<Tensor>& planes, int64_t form, bool channels_last, const Relu& relu) {
  STD_TORCH_CHECK(static_cast<int64_t>(planes.size()) == planes_of(form), "there must be the planes of that form");
  for (const Tensor& p : planes) {
    bool alike = p.dim() == 4 && p.scalar_type() == planes[0].scalar_type();
    for (int64_t d = 0; alike && d < 4; ++d) alike = p.size(d) == planes[0].size(d);
    STD_TORCH_CHECK(alike && (p.numel() == 0 || dense_in_order(p, {{0, 2, 3, 1}})),
                    "planes must be [N, C, H, W] channels-last, of one shape and dtype");
  }
  const int64_t n = planes[0].size(0) / (form == TURNS ? 2 : 1), row = planes[0].size(1);
  const int64_t h = planes[0].size(2), w = planes[0].size(3);
  STD_TORCH_CHECK(form != BLOCK || row % 2 == 0, "a plane of both parts must have an even number of channels");
  STD_TORCH_CHECK(form != TURNS || planes[0].size(0) % 2 == 0, "a plane of parts in turns must have an even number");
  const int64_t c = form == BLOCK ? row / 2 : row, s = h * w;
  const std::vector<int64_t> sizes{n, 2, c, h, w};
  const Tensor out =
      channels_last ? strided_like(planes[0], sizes, {2 * c * s, c, 1, 2 * c * w, 2 * c}) : empty_of(planes[0], sizes);
  if (relu.residual) check_alike(*relu.residual, planar(out, "out"), out, "residual");
  with_stored(planes[0].scalar_type(), NAME, [&](auto zero) {
    using T = decltype(zero);
    using W = wide_t<T>;
    if (relu.scale) {
      check_vector(*relu.scale, c, "scale");
      STD_TORCH_CHECK(relu.scale->scalar_type() == (std::is_same_v<W, double> ? ScalarType::Double : ScalarType::Float),
                      "scale must be float32, or float64 for planes in float64");
    }
    const W *scale = relu.scale ? data<const W>(*relu.scale) : nullptr, limit = static_cast<W>(relu.c);
    const T* residual = relu.residual ? data<const T>(*relu.residual) : nullptr;
    with_form(form, [&](auto known) {
      T* to = data<T>(out);
      for_spans(n, c, s, [&](int64_t sample, int64_t begin, int64_t end) {
        Rows<const T> rows{{}, row};
        for (int64_t p = 0; p < 3; ++p) {
          const size_t given = std::min(planes.size() - 1, static_cast<size_t>(p));
          const int64_t place = form == TURNS ? (2 * sample + (p == 1)) * s * row : sample * s * row;
          rows.first[p] = data<const T>(planes[given]) + place + (form == BLOCK && p == 1 ? c : 0);
        }
        T* re = to + sample * 2 * c * s;
        if (channels_last) {
          join_rows<T, known()>(rows, re, c, begin, end);
        } else {
          join_span<T, known()>(rows, re, re + c * s, c, s, begin, end);
        }
        if (scale == nullptr) return;
        const T* beside = residual == nullptr ? re : residual + sample * 2 * c * s;
        if (channels_last) {
          residual ? relu_span<T, true, true>(re, beside, scale, c, s, begin, end, limit)
                   : relu_span<T, true, false>(re, beside, scale, c, s, begin, end, limit);
        } else {
          residual ? relu_span<T, false, true>(re, beside, scale, c, s, begin, end, limit)
                   : relu_span<T, false, false>(re, beside, scale, c, s, begin, end, limit);
        }
      });
    });
  });
  return out;
}

Tensor backward(std::vector<Tensor> grads, int64_t form, bool channels_last) {
  return joined(grads, form, channels_last, Relu{std::nullopt, std::nullopt, 1.0});
}

Tensor relu_forward(std::vector<Tensor> planes, Tensor scale, std::optional<Tensor> residual, int64_t form,
                    bool channels_last, double c) {
  return joined(planes, form, channels_last, Relu{scale, residual, c});
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("conv_planes_forward", TORCH_BOX(&cvk::forward));
  m.impl("conv_planes_backward", TORCH_BOX(&cvk::backward));
  m.impl("conv_planes_relu_forward", TORCH_BOX(&cvk::relu_forward));
}
