// A function compiled for several levels of SIMD, the one in use chosen when the library is loaded.
#pragma once

// Without -fno-math-errno a square root keeps its loop scalar, and a clone then only costs its indirect call.
// GCC chooses between levels by name from 12 on; before, between the first processors that had them.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#if __GNUC__ >= 12
#define CVK_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define CVK_CLONES __attribute__((target_clones("default", "arch=haswell", "arch=skylake-avx512")))
#endif
#else
#define CVK_CLONES
#endif
#define CVK_SIMD _Pragma("omp simd")
