// Registers of floats, and what is computed in them. Included by each of the compiled sources.

#pragma once

#include <cstdint>
#include <cstring>
#include <memory>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int V = 16;  // floats of a register
#elif defined(__AVX2__)
constexpr int V = 8;
#else
constexpr int V = 4;
#endif

typedef float Floats __attribute__((vector_size(4 * V)));
typedef float Four __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(4 * V)));

template <class T>
inline T load(const void* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// Memory for floats that is kept for the next call, at the beginning of a cache line: a load across two takes twice as long.
class Memory {
public:
    float* floats(long count) {
        if (count > room) {
            room = count;
            kept.reset(new float[count + 16]);
        }
        uintptr_t address = reinterpret_cast<uintptr_t>(kept.get());
        return reinterpret_cast<float*>((address + 63) / 64 * 64);
    }

private:
    long room = -1;
    std::unique_ptr<float[]> kept;
};

// Of the threads that run a parallel region together: one, where there is no OpenMP.
inline int thread_number() {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

inline int thread_count() {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}

inline void store(float* to, Floats value) { std::memcpy(to, &value, sizeof value); }

inline Floats exponential(Floats x) {  // e^x within 2 units of the last place, 0 below -87
    Ints dead = x < -87.0f;
    x = x < -87.0f ? Floats{} - 87.0f : x;
    x = x > 88.0f ? Floats{} + 88.0f : x;
    Floats shifted = x * 1.44269504f + 12582912.0f;  // rounds to the nearest whole number
    Ints power = (Ints)shifted - 0x4b400000;
    Floats n = shifted - 12582912.0f;
    x = x - n * 0.693359375f + n * 2.12194440e-4f;
    Floats y = x * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * x * x + x + 1.0f;
    Floats value = (Floats)((Ints)y + (power << 23));
    return (Floats)((Ints)value & ~dead);
}

inline Four fold(Floats x) {
#if defined(__AVX512F__)
    typedef float Eight __attribute__((vector_size(32)));
    Eight half = __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7) +
                 __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
    return __builtin_shufflevector(half, half, 0, 1, 2, 3) + __builtin_shufflevector(half, half, 4, 5, 6, 7);
#elif defined(__AVX2__)
    return __builtin_shufflevector(x, x, 0, 1, 2, 3) + __builtin_shufflevector(x, x, 4, 5, 6, 7);
#else
    return x;
#endif
}

inline float sum(Floats x) {
    Four four = fold(x);
    return (four[0] + four[1]) + (four[2] + four[3]);
}

}  // namespace
