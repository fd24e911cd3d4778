// Functions that are the same arithmetic on the host and on a GPU.
#pragma once

#if defined(__CUDACC__)
#define CVK_INLINE __host__ __device__ __forceinline__
#elif defined(__GNUC__) || defined(__clang__)
// always: a SIMD clone that merely calls its arithmetic is no SIMD clone
#define CVK_INLINE inline __attribute__((always_inline))
#else
#define CVK_INLINE inline
#endif

// A loop's body as a lambda, which does not take the target of the function that it stands in.
#if defined(__GNUC__) || defined(__clang__)
#define CVK_INLINE_LAMBDA __attribute__((always_inline))
#else
#define CVK_INLINE_LAMBDA
#endif
