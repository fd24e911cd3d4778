// cvkernels._build: what this library was built for. No tensors here, so pybind11 and not the operator library.
#include <pybind11/pybind11.h>

#include <string>

// The level the SIMD clones of csrc/cpu/simd.h resolve to on this processor.
static std::string simd_level() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd"))
    return "AVX-512";
  if (__builtin_cpu_supports("avx2")) return "AVX2";
  return "baseline x86-64";
#elif defined(__aarch64__)
  return "NEON";
#else
  return "baseline";
#endif
}

PYBIND11_MODULE(_build, m) {
  m.doc() = "What cvkernels' compiled library was built for.";
  m.attr("torch") = CVK_TORCH;
  m.attr("cuda") = CVK_CUDA;
  m.attr("archs") = CVK_ARCHS;
  m.attr("compiler") = CVK_CXX;
  m.attr("flags") = CVK_FLAGS;
  m.def("simd_level", &simd_level, "Instruction set the CPU kernels use on this machine.");
}
