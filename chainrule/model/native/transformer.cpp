// Inference of a causal Transformer on a CPU: linear maps of several kinds of weights, and all layers in one call.
//
// Activations are float32. Weights stay as they are stored and are widened to float32 in registers, so that the result
// is that of the widened matrix whatever the kind. Of one kind, activations are rounded to bfloat16 as well where there
// are many rows and the processor multiplies bfloat16.
//
// Shapes: N rows of activations (tokens), D width, H heads, G key-value heads, K head width.

#include <algorithm>
#include <cmath>
#include <type_traits>

#include "vectors.h"

namespace {

constexpr int BLOCK = 32;          // values that share a scale in quantised weights
constexpr int VECTORS = BLOCK / V;  // registers of a block
constexpr int ROWS = 4, OUTPUTS = V == 16 ? 4 : 2;  // of a tile whose sums fit the registers
constexpr long PANEL = 32;         // outputs whose weights are widened at once where there are many rows
constexpr long MLP_ROWS = 256;     // rows whose hidden activations are kept at once

typedef uint16_t Halves __attribute__((vector_size(2 * V)));
typedef int8_t Bytes __attribute__((vector_size(V)));
typedef uint8_t Nibbles __attribute__((vector_size(V)));

inline float widen_half(uint16_t half) {
#if defined(__F16C__)
    return _cvtsh_ss(half);
#else
    uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = (half >> 10) & 31, mantissa = half & 1023;
    if (exponent == 0) {  // zero, or a number below the smallest exponent
        float value = float(mantissa) * 5.9604645e-8f;
        return sign ? -value : value;
    }
    uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | (mantissa << 13);
    return load<float>(&bits);
#endif
}

// V whole numbers of 8 or 16 bits as 32 bits. GCC 12 makes twenty instructions of its own conversions, hence these.
inline Ints widen_bytes(const uint8_t* from) {  // with their signs
#if defined(__AVX512F__)
    return (Ints)_mm512_cvtepi8_epi32(load<__m128i>(from));
#elif defined(__AVX2__)
    return (Ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)from));
#else
    return __builtin_convertvector(load<Bytes>(from), Ints);
#endif
}

inline Ints widen_halves(const uint8_t* from) {  // without
#if defined(__AVX512F__)
    return (Ints)_mm512_cvtepu16_epi32(load<__m256i>(from));
#elif defined(__AVX2__)
    return (Ints)_mm256_cvtepu16_epi32(load<__m128i>(from));
#else
    return __builtin_convertvector(load<Halves>(from), Ints);
#endif
}

inline Floats nibbles(const uint8_t* bytes, int part) {  // the first 16 of a block are the low halves of its bytes
    constexpr int half = VECTORS / 2;
    const uint8_t* from = bytes + (part % half) * V;
#if defined(__AVX512F__)
    Ints both = (Ints)_mm512_cvtepu8_epi32(load<__m128i>(from));
#elif defined(__AVX2__)
    Ints both = (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)from));
#else
    Ints both = __builtin_convertvector(load<Nibbles>(from), Ints);
#endif
    return __builtin_convertvector(part < half ? both & 15 : both >> 4, Floats);
}

// Kinds of weights: `scale` reads what a block of 32 values shares, `vector` widens V of its values, `one` a single one.

struct Float32 {
    struct Scale {};
    static long bytes(long columns) { return 4 * columns; }
    static Scale scale(const uint8_t*, long) { return {}; }
    static Floats vector(const uint8_t* row, long block, int part, Scale) {
        return load<Floats>(row + 4 * (block * BLOCK + part * V));
    }
    static float one(const uint8_t* row, long column) { return load<float>(row + 4 * column); }
};

struct BFloat16 {
    struct Scale {};
    static long bytes(long columns) { return 2 * columns; }
    static Scale scale(const uint8_t*, long) { return {}; }
    static Floats vector(const uint8_t* row, long block, int part, Scale) {
        return (Floats)(widen_halves(row + 2 * (block * BLOCK + part * V)) << 16);
    }
    static float one(const uint8_t* row, long column) {
        uint32_t bits = uint32_t(load<uint16_t>(row + 2 * column)) << 16;
        return load<float>(&bits);
    }
};

struct Float16 {
    struct Scale {};
    static long bytes(long columns) { return 2 * columns; }
    static Scale scale(const uint8_t*, long) { return {}; }
    static Floats vector(const uint8_t* row, long block, int part, Scale) {
        const uint8_t* from = row + 2 * (block * BLOCK + part * V);
#if defined(__AVX512F__)
        return (Floats)_mm512_cvtph_ps(load<__m256i>(from));
#elif defined(__AVX2__) && defined(__F16C__)
        return (Floats)_mm256_cvtph_ps(load<__m128i>(from));
#else
        Floats value;
        for (int i = 0; i < V; i++) value[i] = widen_half(load<uint16_t>(from + 2 * i));
        return value;
#endif
    }
    static float one(const uint8_t* row, long column) { return widen_half(load<uint16_t>(row + 2 * column)); }
};

// GGUF's blocks of 32: float16 d, int8 q; the value is d q.
struct Q8_0 {
    typedef float Scale;
    static long bytes(long columns) { return columns / BLOCK * 34; }
    static Scale scale(const uint8_t* row, long block) { return widen_half(load<uint16_t>(row + 34 * block)); }
    static Floats vector(const uint8_t* row, long block, int part, Scale d) {
        return __builtin_convertvector(widen_bytes(row + 34 * block + 2 + part * V), Floats) * d;
    }
    static float one(const uint8_t*, long) { return 0; }
};

// float16 d, 16 bytes of two q each; the value is d (q - 8).
struct Q4_0 {
    typedef float Scale;
    static long bytes(long columns) { return columns / BLOCK * 18; }
    static Scale scale(const uint8_t* row, long block) { return widen_half(load<uint16_t>(row + 18 * block)); }
    static Floats vector(const uint8_t* row, long block, int part, Scale d) {
        return (nibbles(row + 18 * block + 2, part) - 8.0f) * d;
    }
    static float one(const uint8_t*, long) { return 0; }
};

// float16 d and m, 16 bytes of two q each; the value is d q + m.
struct Q4_1 {
    struct Scale {
        float d, m;
    };
    static long bytes(long columns) { return columns / BLOCK * 20; }
    static Scale scale(const uint8_t* row, long block) {
        const uint8_t* from = row + 20 * block;
        return {widen_half(load<uint16_t>(from)), widen_half(load<uint16_t>(from + 2))};
    }
    static Floats vector(const uint8_t* row, long block, int part, Scale scale) {
        return nibbles(row + 20 * block + 4, part) * scale.d + scale.m;
    }
    static float one(const uint8_t*, long) { return 0; }
};

// The sums of four registers' lanes.
inline Four sums(Floats x0, Floats x1, Floats x2, Floats x3) {
    Four a = fold(x0), b = fold(x1), c = fold(x2), d = fold(x3);
    Four ab = __builtin_shufflevector(a, b, 0, 4, 2, 6) + __builtin_shufflevector(a, b, 1, 5, 3, 7);
    Four cd = __builtin_shufflevector(c, d, 0, 4, 2, 6) + __builtin_shufflevector(c, d, 1, 5, 3, 7);
    return __builtin_shufflevector(ab, cd, 0, 1, 4, 5) + __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
}

// Products of O rows of weights and R rows of activations: result[r][o].
template <class W, int O, int R>
inline void tile(const uint8_t* weights, long stride, const float* x, long x_stride, long columns, float (*result)[4]) {
    Floats total[4][R];
#pragma GCC unroll 4
    for (int o = 0; o < 4; o++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) total[o][r] = Floats{};
    const long blocks = columns / BLOCK;
    for (long block = 0; block < blocks; block++) {
        typename W::Scale scale[O];
#pragma GCC unroll 4
        for (int o = 0; o < O; o++) scale[o] = W::scale(weights + o * stride, block);
#pragma GCC unroll 8
        for (int part = 0; part < VECTORS; part++) {
            Floats input[R];
#pragma GCC unroll 8
            for (int r = 0; r < R; r++) input[r] = load<Floats>(x + r * x_stride + block * BLOCK + part * V);
#pragma GCC unroll 4
            for (int o = 0; o < O; o++) {
                Floats weight = W::vector(weights + o * stride, block, part, scale[o]);
#pragma GCC unroll 8
                for (int r = 0; r < R; r++) total[o][r] += weight * input[r];
            }
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        Four four = sums(total[0][r], total[1][r], total[2][r], total[3][r]);
        std::memcpy(result[r], &four, sizeof four);
        for (long column = blocks * BLOCK; column < columns; column++)
            for (int o = 0; o < O; o++) result[r][o] += W::one(weights + o * stride, column) * x[r * x_stride + column];
    }
}

template <class W, int O, int R>
void tile_rows(
    int rows, const uint8_t* weights, long stride, const float* x, long x_stride, long columns, float (*result)[4]) {
    if (rows == R || R == 1) return tile<W, O, R>(weights, stride, x, x_stride, columns, result);
    tile_rows<W, O, (R > 1 ? R - 1 : 1)>(rows, weights, stride, x, x_stride, columns, result);
}

struct Target {  // where products go: y (rows, stride), set to product + bias, or increased by factor (product + bias)
    float* y;
    long stride;
    const float* bias;
    bool add;
    float factor;

    void put(long row, long output, float product) const {
        float value = product + (bias ? bias[output] : 0.0f), *to = y + row * stride + output;
        *to = add ? *to + factor * value : value;
    }
};

template <class W>
void outputs(
    const uint8_t* weights, long stride, const float* x, long x_stride, long rows, long columns, long first, long last,
    long offset, const uint8_t* next, long next_bytes, const Target& target) {
    float result[ROWS][4];
    const long tiles = (rows + ROWS - 1) / ROWS * ((last - first + OUTPUTS - 1) / OUTPUTS);
    const long part = (next_bytes / tiles + 63) / 64 * 64;
    for (long row = 0; row < rows; row += ROWS) {
        const int R = int(std::min(long(ROWS), rows - row));
        for (long output = first; output < last; output += OUTPUTS) {
            for (long line = 0; line < part && next_bytes > 0; line += 64, next += 64, next_bytes -= 64)
                __builtin_prefetch(next, 0, 2);
            const int O = int(std::min(long(OUTPUTS), last - output));
            const uint8_t* from = weights + (output - offset) * stride;
            const float* input = x + row * x_stride;
            if (O == OUTPUTS) {
                tile_rows<W, OUTPUTS, ROWS>(R, from, stride, input, x_stride, columns, result);
            } else {
                float single[1][4];
                for (int o = 0; o < O; o++)
                    for (int r = 0; r < R; r++) {
                        tile<W, 1, 1>(from + o * stride, stride, input + r * x_stride, 0, columns, single);
                        result[r][o] = single[0][0];
                    }
            }
            for (int r = 0; r < R; r++)
                for (int o = 0; o < O; o++) target.put(row + r, output + o, result[r][o]);
        }
    }
}

// Few rows: a thread reads its weights as four streams, each from its beginning to its end, as memory likes it best.
template <class W>
void streamed(
    const uint8_t* weights, long stride, const float* x, long x_stride, int rows, long columns, long first, long last,
    const Target& target) {
    float result[4][4];
    const long quarter = (last - first) / 4;
    for (long i = 0; i < quarter; i++) {
        tile_rows<W, 4, 4>(rows, weights + (first + i) * stride, quarter * stride, x, x_stride, columns, result);
        for (int r = 0; r < rows; r++)
            for (int o = 0; o < 4; o++) target.put(r, first + o * quarter + i, result[r][o]);
    }
    for (long output = first + 4 * quarter; output < last; output++)
        for (int r = 0; r < rows; r++) {
            tile<W, 1, 1>(weights + output * stride, stride, x + r * x_stride, 0, columns, result);
            target.put(r, output, result[0][0]);
        }
}

#if defined(__AVX512BF16__) && defined(__AVX512BW__)

constexpr long PAIRED = 2 * V;  // bfloat16 numbers of a register

// Products of O rows of bfloat16 weights and R rows of activations, whose columns are zero from `columns` on to the next
// multiple of PAIRED.
template <int O, int R>
inline void paired_tile(
    const uint8_t* weights, long stride, const uint16_t* x, long x_stride, long columns, float (*result)[4]) {
    __m512 total[4][R];
#pragma GCC unroll 4
    for (int o = 0; o < 4; o++)
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) total[o][r] = _mm512_setzero_ps();
    for (long i = 0; i < columns; i += PAIRED) {
        const __mmask32 inside = columns - i >= PAIRED ? ~__mmask32(0) : (__mmask32(1) << (columns - i)) - 1;
        __m512bh input[R];
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) input[r] = (__m512bh)_mm512_loadu_si512(x + r * x_stride + i);
#pragma GCC unroll 4
        for (int o = 0; o < O; o++) {
            __m512bh weight = (__m512bh)_mm512_maskz_loadu_epi16(inside, weights + o * stride + 2 * i);
#pragma GCC unroll 4
            for (int r = 0; r < R; r++) total[o][r] = _mm512_dpbf16_ps(total[o][r], weight, input[r]);
        }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
        Four four = sums((Floats)total[0][r], (Floats)total[1][r], (Floats)total[2][r], (Floats)total[3][r]);
        std::memcpy(result[r], &four, sizeof four);
    }
}

template <int O>
void paired_rows(
    int rows, const uint8_t* weights, long stride, const uint16_t* x, long x_stride, long columns, float (*result)[4]) {
    switch (rows) {
        case 1: return paired_tile<O, 1>(weights, stride, x, x_stride, columns, result);
        case 2: return paired_tile<O, 2>(weights, stride, x, x_stride, columns, result);
        case 3: return paired_tile<O, 3>(weights, stride, x, x_stride, columns, result);
        default: return paired_tile<O, 4>(weights, stride, x, x_stride, columns, result);
    }
}

void multiply_paired(
    const uint8_t* weights, long columns, const float* x, long x_stride, long rows, long first, long last,
    const Target& target) {
    const long stride = 2 * columns, room = (columns + PAIRED - 1) / PAIRED * PAIRED;
    static thread_local Memory memory;
    uint16_t* rounded_x = reinterpret_cast<uint16_t*>(memory.floats(rows * room / 2));
    for (long row = 0; row < rows; row++)
        for (long i = 0; i < room; i += V) {
            const long left = std::max(0L, std::min(long(V), columns - i));
            const __m512 wide = _mm512_maskz_loadu_ps(__mmask16((1u << left) - 1), x + row * x_stride + i);
            const __m256bh narrow = _mm512_cvtneps_pbh(wide);
            std::memcpy(rounded_x + row * room + i, &narrow, sizeof narrow);
        }
    float result[4][4];
    for (long output = first; output < last; output += 4) {
        const int O = int(std::min(4L, last - output));
        const uint8_t *from = weights + output * stride, *next = from + 8 * stride, *end = weights + last * stride;
        for (long row = 0; row < rows; row += 4) {
            const long lines = (4 * stride / 64 + 1) * 4 / rows + 1;  // of weights that are needed soon
            for (long line = 0; line < lines && next < end; line++, next += 64) __builtin_prefetch(next, 0, 2);
            const int R = int(std::min(4L, rows - row));
            const uint16_t* input = rounded_x + row * room;
            if (O == 4) {
                paired_rows<4>(R, from, stride, input, room, columns, result);
                for (int r = 0; r < R; r++)
                    for (int o = 0; o < 4; o++) target.put(row + r, output + o, result[r][o]);
                continue;
            }
            for (int o = 0; o < O; o++) {
                paired_rows<1>(R, from + o * stride, stride, input, room, columns, result);
                for (int r = 0; r < R; r++) target.put(row + r, output + o, result[r][0]);
            }
        }
    }
}

#endif

template <class W>
void widen(const uint8_t* row, long columns, float* to) {
    for (long block = 0; block < columns / BLOCK; block++) {
        typename W::Scale scale = W::scale(row, block);
        for (int part = 0; part < VECTORS; part++)
            store(to + block * BLOCK + part * V, W::vector(row, block, part, scale));
    }
    for (long column = columns / BLOCK * BLOCK; column < columns; column++) to[column] = W::one(row, column);
}

template <class W>
void multiply_kind(
    const uint8_t* weights, long columns, const float* x, long x_stride, long rows, long first, long last,
    const Target& target) {
    const long stride = W::bytes(columns);
    if (rows <= 4) {
        streamed<W>(weights, stride, x, x_stride, int(rows), columns, first, last, target);
        return;
    }
    static thread_local Memory memory;
    float* panel = std::is_same<W, Float32>::value ? nullptr : memory.floats(PANEL * columns);
    for (long start = first; start < last; start += PANEL) {
        const long stop = std::min(start + PANEL, last);
        const uint8_t* next = weights + stop * stride;  // fetched while this panel is computed
        const long next_bytes = (std::min(stop + PANEL, last) - stop) * stride;
        if (std::is_same<W, Float32>::value) {
            outputs<W>(
                weights, stride, x, x_stride, rows, columns, start, stop, 0, next, next_bytes, target);
            continue;
        }
        for (long output = start; output < stop; output++)
            widen<W>(weights + output * stride, columns, panel + (output - start) * columns);
        outputs<Float32>(
            (const uint8_t*)panel, 4 * columns, x, x_stride, rows, columns, start, stop, start, next, next_bytes,
            target);
    }
}

}  // namespace

extern "C" {

struct Matrix {
    // 0 float32, 1 bfloat16, 2 float16, 3 Q8_0, 4 Q4_0, 5 Q4_1, 6 bfloat16 where activations may be rounded to it too
    int64_t kind;
    int64_t rows, columns;
    const uint8_t* data;  // (rows, columns), row after row
    const float* bias;    // (rows), or null
};

struct Norm {
    const float* gain;  // null: no norm
    const float* bias;
    int64_t layer;  // LayerNorm, else RMSNorm
    float epsilon, offset;
};

struct Layer {
    Matrix query_key_value, output, up, down;
    Norm attention_norm, attention_output_norm, mlp_norm, mlp_output_norm, query_norm, key_norm;
    int64_t kind;     // which rotation and which window
    int64_t rotated;  // 0: no rotation
};

struct Model {
    int64_t width, layers, heads, key_value_heads, head_width, hidden;
    int64_t gated, activation;  // 0 silu, 1 gelu, 2 gelu by tanh, 3 relu
    int64_t parallel, norm_by_head, rope_width;
    float query_factor, attention_cap, residual_factor;  // a cap of 0: none
    Norm norm;
    const Layer* layer;
};

// Row r is a token of sequence `sequence[r]`. Its key and value go to column `column[r]` of that sequence in the cache, and
// it attends to columns begin[kind][r] to end[r] - 1.
struct Rows {
    int64_t count;
    const int64_t *sequence, *column, *end;
    const int64_t* begin;        // (kinds, count)
    const float *cosine, *sine;  // (kinds, count, rope_width)
};

struct KeysValues {  // strides in elements; heads' vectors are contiguous
    int64_t kind;    // 0 float32, 1 bfloat16
    uint8_t *keys, *values;
    int64_t layer_stride, sequence_stride, head_stride, column_stride;
};

}  // extern "C"

namespace {

void multiply(const Matrix& matrix, const float* x, long x_stride, long rows, long first, long last, Target target) {
    if (first >= last) return;
    target.bias = matrix.bias;
#if defined(__AVX512BF16__) && defined(__AVX512BW__)
    if (matrix.kind == 6 && rows > 4)
        return multiply_paired(matrix.data, matrix.columns, x, x_stride, rows, first, last, target);
#endif
    switch (matrix.kind) {
        case 0: return multiply_kind<Float32>(matrix.data, matrix.columns, x, x_stride, rows, first, last, target);
        case 1:
        case 6: return multiply_kind<BFloat16>(matrix.data, matrix.columns, x, x_stride, rows, first, last, target);
        case 2: return multiply_kind<Float16>(matrix.data, matrix.columns, x, x_stride, rows, first, last, target);
        case 3: return multiply_kind<Q8_0>(matrix.data, matrix.columns, x, x_stride, rows, first, last, target);
        case 4: return multiply_kind<Q4_0>(matrix.data, matrix.columns, x, x_stride, rows, first, last, target);
        default: return multiply_kind<Q4_1>(matrix.data, matrix.columns, x, x_stride, rows, first, last, target);
    }
}

void widen_row(const Matrix& matrix, long row, float* to) {
    const long columns = matrix.columns;
    switch (matrix.kind) {
        case 0: return widen<Float32>(matrix.data + row * Float32::bytes(columns), columns, to);
        case 1:
        case 6: return widen<BFloat16>(matrix.data + row * BFloat16::bytes(columns), columns, to);
        case 2: return widen<Float16>(matrix.data + row * Float16::bytes(columns), columns, to);
        case 3: return widen<Q8_0>(matrix.data + row * Q8_0::bytes(columns), columns, to);
        case 4: return widen<Q4_0>(matrix.data + row * Q4_0::bytes(columns), columns, to);
        default: return widen<Q4_1>(matrix.data + row * Q4_1::bytes(columns), columns, to);
    }
}

struct Share {
    long first, last;
};

// This thread's part of `count` things, a multiple of `unit` of them.
Share share(long count, int thread, int threads, long unit = 1) {
    long units = (count + unit - 1) / unit;
    return {std::min(units * thread / threads * unit, count), std::min(units * (thread + 1) / threads * unit, count)};
}

void activate(float* gate, const float* up, long count, int64_t kind) {
    long i = 0;
    if (kind == 0 || kind == 2) {
        for (; i + V <= count; i += V) {
            Floats x = load<Floats>(gate + i), y;
            if (kind == 0) {
                y = x / (1.0f + exponential(-x));
            } else {  // x (1 + tanh(z)) / 2 = x / (1 + e^-2z)
                Floats z = 0.7978845608f * (x + 0.044715f * x * x * x);
                y = x / (1.0f + exponential(-2.0f * z));
            }
            store(gate + i, up ? y * load<Floats>(up + i) : y);
        }
    }
    for (; i < count; i++) {
        float x = gate[i], y;
        switch (kind) {
            case 0: y = x / (1.0f + std::exp(-x)); break;
            case 1: y = 0.5f * x * (1.0f + std::erf(x * 0.70710678f)); break;
            case 2: y = x / (1.0f + std::exp(-2.0f * 0.7978845608f * (x + 0.044715f * x * x * x))); break;
            default: y = x > 0 ? x : 0;
        }
        gate[i] = up ? y * up[i] : y;
    }
}

void normalise(const Norm& norm, const float* x, long width, float* y) {
    long i = 0;
    Floats wide{};
    float mean = 0;
    if (norm.layer) {
        for (; i + V <= width; i += V) wide += load<Floats>(x + i);
        mean = sum(wide);
        for (; i < width; i++) mean += x[i];
        mean /= float(width);
    }
    wide = Floats{};
    for (i = 0; i + V <= width; i += V) {
        Floats away = load<Floats>(x + i) - mean;
        wide += away * away;
    }
    float square = sum(wide);
    for (; i < width; i++) square += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / std::sqrt(square / float(width) + norm.epsilon);
    for (i = 0; i + V <= width; i += V) {
        Floats value = (load<Floats>(x + i) - mean) * scale * (norm.offset + load<Floats>(norm.gain + i));
        store(y + i, norm.bias ? value + load<Floats>(norm.bias + i) : value);
    }
    for (; i < width; i++) {
        float value = (x[i] - mean) * scale * (norm.offset + norm.gain[i]);
        y[i] = norm.bias ? value + norm.bias[i] : value;
    }
}

void rotate(float* head, const float* cosine, const float* sine, long width) {
    for (long i = 0, half = width / 2; i < half; i++) {
        float first = head[i], second = head[i + half];
        head[i] = first * cosine[i] - second * sine[i];
        head[i + half] = second * cosine[i + half] + first * sine[i + half];
    }
}

// Of kind 0, float32, or 1, bfloat16: the nearest, ties to even; a NaN stays one.
void write(int64_t kind, uint8_t* to, const float* from, long count) {
    if (kind == 0) {
        std::memcpy(to, from, 4 * count);
        return;
    }
    for (long i = 0; i < count; i++) {
        uint32_t bits = load<uint32_t>(from + i);
        uint16_t half = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
        if ((bits & 0x7fffffff) > 0x7f800000) half = 0x7fc0;
        std::memcpy(to + 2 * i, &half, 2);
    }
}

struct Query {
    const float* vector;
    float* mixed;
    long begin, end;
};

// Attention of R queries of one head of one sequence.
template <class C, int R>
void attend(
    const Model& model, const Query* query, const uint8_t* keys, const uint8_t* values, long stride, Memory& memory) {
    const long K = model.head_width, K16 = (K + 15) / 16 * 16;
    const float scale = 1.0f / std::sqrt(float(K));
    long begin = query[0].begin, end = query[0].end;
    for (int r = 1; r < R; r++) begin = std::min(begin, query[r].begin), end = std::max(end, query[r].end);
    const long S = end - begin, room = (S + 18) / 16 * 16;
    float *scores = memory.floats(R * (room + K16)), *queries = scores + R * room;
    for (int r = 0; r < R; r++)
        for (long i = 0; i < K; i++) queries[r * K16 + i] = query[r].vector[i] * scale;
    float result[4][4];
    for (long s = 0; s < S; s += 4) {
        int O = int(std::min(4L, S - s));
        const uint8_t* from = keys + (begin + s) * stride;
        if (O == 4) {
            tile<C, 4, R>(from, stride, queries, K16, K, result);
            for (int r = 0; r < R; r++) std::memcpy(scores + r * room + s, result[r], 16);
            continue;
        }
        for (int o = 0; o < O; o++) {
            for (int r = 0; r < R; r++) {
                tile<C, 1, 1>(from + o * stride, stride, queries + r * K16, 0, K, result);
                scores[r * room + s + o] = result[0][0];
            }
        }
    }
    float inverse[R];
    for (int r = 0; r < R; r++) {
        float* score = scores + r * room;
        if (model.attention_cap > 0)
            for (long s = 0; s < S; s++) score[s] = model.attention_cap * std::tanh(score[s] / model.attention_cap);
        for (long s = 0; s < query[r].begin - begin; s++) score[s] = -INFINITY;
        for (long s = query[r].end - begin; s < room; s++) score[s] = -INFINITY;
        Floats best = Floats{} - INFINITY;
        for (long s = 0; s + V <= room; s += V) {
            Floats value = load<Floats>(score + s);
            best = value > best ? value : best;
        }
        float greatest = best[0];
        for (int i = 1; i < V; i++) greatest = std::max(greatest, float(best[i]));
        Floats total{};
        for (long s = 0; s + V <= room; s += V) {
            Floats value = exponential(load<Floats>(score + s) - greatest);
            store(score + s, value);
            total += value;
        }
        inverse[r] = 1.0f / sum(total);
    }
    constexpr int W = V == 16 ? 4 : 2;  // registers of values at once
    long i = 0;
    const long bytes = C::bytes(1);
    for (; i + W * V <= K; i += W * V) {
        Floats total[R][W];
        for (int r = 0; r < R; r++)
            for (int c = 0; c < W; c++) total[r][c] = Floats{};
        for (long s = 0; s < S; s++) {
            const uint8_t* value = values + (begin + s) * stride + i * bytes;
            Floats vector[W];
#pragma GCC unroll 4
            for (int c = 0; c < W; c++) vector[c] = C::vector(value + c * V * bytes, 0, 0, {});
#pragma GCC unroll 4
            for (int r = 0; r < R; r++)
#pragma GCC unroll 4
                for (int c = 0; c < W; c++) total[r][c] += scores[r * room + s] * vector[c];
        }
        for (int r = 0; r < R; r++)
            for (int c = 0; c < W; c++) store(query[r].mixed + i + c * V, total[r][c] * inverse[r]);
    }
    for (; i < K; i++)
        for (int r = 0; r < R; r++) {
            float total = 0;
            for (long s = 0; s < S; s++)
                total += scores[r * room + s] * C::one(values + (begin + s) * stride, i);
            query[r].mixed[i] = total * inverse[r];
        }
}

template <class C>
void attend_rows(
    int count, const Model& model, const Query* query, const uint8_t* keys, const uint8_t* values, long stride,
    Memory& memory) {
    switch (count) {
        case 1: return attend<C, 1>(model, query, keys, values, stride, memory);
        case 2: return attend<C, 2>(model, query, keys, values, stride, memory);
        case 3: return attend<C, 3>(model, query, keys, values, stride, memory);
        default: return attend<C, 4>(model, query, keys, values, stride, memory);
    }
}

inline void wait() {
#ifdef _OPENMP
#pragma omp barrier
#endif
}

struct Pass {  // one call of `forward`: what its threads share
    const Model& model;
    const Rows& rows;
    const KeysValues& cache;
    float* x;  // (count, D)
    float *normed, *normed_mlp, *qkv, *mixed, *hidden, *branch;

    void add(const Matrix& matrix, const Norm& after, const float* input, long stride, float* to, long count,
             int thread, int threads);
    void keys_and_queries(const Layer& layer, long index, int thread, int threads);
    void attention(const Layer& layer, long index, int thread, int threads);
    void mlp(const Layer& layer, const float* input, float* to, long count, int thread, int threads);
    void run(int thread, int threads);
};

void norm_rows(const Norm& norm, const float* x, float* y, long count, long width, int thread, int threads) {
    Share mine = share(count, thread, threads);
    for (long row = mine.first; row < mine.last; row++) normalise(norm, x + row * width, width, y + row * width);
}

// to += factor · norm(matrix input)
void Pass::add(const Matrix& matrix, const Norm& after, const float* input, long stride, float* to, long count,
               int thread, int threads) {
    const long D = model.width;
    Share mine = share(D, thread, threads, 4);
    if (!after.gain) {
        multiply(matrix, input, stride, count, mine.first, mine.last, {to, D, nullptr, true, model.residual_factor});
        wait();
        return;
    }
    multiply(matrix, input, stride, count, mine.first, mine.last, {branch, D, nullptr, false, 1});
    wait();
    Share part = share(count, thread, threads);
    for (long row = part.first; row < part.last; row++) {
        normalise(after, branch + row * D, D, branch + row * D);
        for (long i = 0; i < D; i++) to[row * D + i] += model.residual_factor * branch[row * D + i];
    }
    wait();
}

void Pass::keys_and_queries(const Layer& layer, long index, int thread, int threads) {
    const long K = model.head_width, H = model.heads, G = model.key_value_heads, R = model.rope_width;
    const long size = cache.kind == 0 ? 4 : 2, all = (H + 2 * G) * K;
    if (layer.query_norm.gain && !model.norm_by_head) {
        Share mine = share(rows.count, thread, threads);
        for (long row = mine.first; row < mine.last; row++) {
            float* query = qkv + row * all;
            normalise(layer.query_norm, query, H * K, query);
            normalise(layer.key_norm, query + H * K, G * K, query + H * K);
        }
        wait();
    }
    Share mine = share(rows.count * G, thread, threads);
    for (long item = mine.first; item < mine.last; item++) {
        const long row = item / G, g = item % G;
        float *query = qkv + row * all, *key = query + (H + g) * K, *value = query + (H + G + g) * K;
        const float *cosine = rows.cosine + (layer.kind * rows.count + row) * R, *sine = rows.sine + (cosine - rows.cosine);
        for (long h = g * (H / G); h < (g + 1) * (H / G); h++) {
            float* head = query + h * K;
            if (layer.query_norm.gain && model.norm_by_head) normalise(layer.query_norm, head, K, head);
            if (layer.rotated) rotate(head, cosine, sine, R);
            if (model.query_factor != 1)
                for (long i = 0; i < K; i++) head[i] *= model.query_factor;
        }
        if (layer.key_norm.gain && model.norm_by_head) normalise(layer.key_norm, key, K, key);
        if (layer.rotated) rotate(key, cosine, sine, R);
        const long at = index * cache.layer_stride + rows.sequence[row] * cache.sequence_stride +
                        g * cache.head_stride + rows.column[row] * cache.column_stride;
        write(cache.kind, cache.keys + size * at, key, K);
        write(cache.kind, cache.values + size * at, value, K);
    }
    wait();
}

void Pass::attention(const Layer& layer, long index, int thread, int threads) {
    const long K = model.head_width, H = model.heads, G = model.key_value_heads;
    const long size = cache.kind == 0 ? 4 : 2, all = (H + 2 * G) * K;
    static thread_local Memory memory;
    // Heads that share keys are computed together, unless a thread would have nothing to do.
    long together = 4;
    while (H / G % together || (together > 1 && rows.count * H / together < 2 * threads)) together--;
    const long parts = H / together, items = rows.count * parts;
    for (long item = thread; item < items; item += threads) {
        const long row = item / parts, part = item % parts, first = part * together, g = first / (H / G);
        const long count = std::min(together, H - first);
        Query query[4];
        for (long i = 0; i < count; i++)
            query[i] = {
                qkv + row * all + (first + i) * K, mixed + row * H * K + (first + i) * K,
                rows.begin[layer.kind * rows.count + row], rows.end[row]};
        const long at = index * cache.layer_stride + rows.sequence[row] * cache.sequence_stride + g * cache.head_stride;
        const uint8_t *keys = cache.keys + size * at, *values = cache.values + size * at;
        const long stride = size * cache.column_stride;
        if (cache.kind == 0)
            attend_rows<Float32>(int(count), model, query, keys, values, stride, memory);
        else
            attend_rows<BFloat16>(int(count), model, query, keys, values, stride, memory);
    }
    wait();
}

void Pass::mlp(const Layer& layer, const float* input, float* to, long count, int thread, int threads) {
    const long D = model.width, F = model.hidden, wide = model.gated ? 2 * F : F;
    for (long start = 0; start < count; start += MLP_ROWS) {
        const long some = std::min(MLP_ROWS, count - start);
        Share mine = share(F, thread, threads, 4);
        Target target{hidden, wide, nullptr, false, 1};
        const float* from = input + start * D;
        multiply(layer.up, from, D, some, mine.first, mine.last, target);
        if (model.gated) multiply(layer.up, from, D, some, F + mine.first, F + mine.last, target);
        for (long row = 0; row < some; row++) {
            float* gate = hidden + row * wide;
            activate(gate + mine.first, model.gated ? gate + F + mine.first : nullptr, mine.last - mine.first,
                     model.activation);
        }
        wait();
        add(layer.down, layer.mlp_output_norm, hidden, wide, to + start * D, some, thread, threads);
    }
}

void Pass::run(int thread, int threads) {
    const long D = model.width, K = model.head_width, H = model.heads, all = (H + 2 * model.key_value_heads) * K;
    float* const stream = x;
    const long count = rows.count;
    for (long index = 0; index < model.layers; index++) {
        const Layer& layer = model.layer[index];
        const float* input = stream;
        if (layer.attention_norm.gain) {
            norm_rows(layer.attention_norm, stream, normed, count, D, thread, threads);
            input = normed;
        }
        if (model.parallel) norm_rows(layer.mlp_norm, stream, normed_mlp, count, D, thread, threads);
        wait();
        Share mine = share(all, thread, threads, 4);
        multiply(layer.query_key_value, input, D, count, mine.first, mine.last, {qkv, all, nullptr, false, 1});
        wait();
        keys_and_queries(layer, index, thread, threads);
        attention(layer, index, thread, threads);
        add(layer.output, layer.attention_output_norm, mixed, H * K, stream, count, thread, threads);
        const float* second = normed_mlp;
        if (!model.parallel) {
            if (layer.mlp_norm.gain) {
                norm_rows(layer.mlp_norm, stream, normed_mlp, count, D, thread, threads);
                wait();
            } else {
                second = stream;
            }
        }
        mlp(layer, second, stream, count, thread, threads);
    }
    if (model.norm.gain) norm_rows(model.norm, stream, stream, count, D, thread, threads);
}

void summarise(const float* logits, long width, int64_t* best, float* total) {
    Floats greatest = Floats{} - INFINITY;
    Ints broken{};  // where a number is none
    long i = 0;
    for (; i + V <= width; i += V) {
        Floats value = load<Floats>(logits + i);
        greatest = value > greatest ? value : greatest;
        broken |= value != value;
    }
    for (int lane = 0; lane < V; lane++)
        if (broken[lane]) i = 0;
    float most = greatest[0];
    for (int lane = 1; lane < V; lane++) most = std::max(most, float(greatest[lane]));
    for (; i < width; i++) {
        if (std::isnan(logits[i])) {
            *best = i, *total = NAN;
            return;
        }
        most = std::max(most, logits[i]);
    }
    *best = 0;
    while (*best + 1 < width && logits[*best] != most) ++*best;
    if (std::isinf(most)) {
        *total = most;
        return;
    }
    double all = 0;
    for (i = 0; i + V <= width;) {
        Floats part{};
        for (const long stop = std::min(i + 64 * V, width); i + V <= stop; i += V)
            part += exponential(load<Floats>(logits + i) - most);
        all += sum(part);
    }
    for (; i < width; i++) all += std::exp(logits[i] - most);
    *total = most + float(std::log(all));
}

}  // namespace

#include "attention.h"

extern "C" {

// y (rows, matrix.rows) = x (rows, matrix.columns) · matrixᵀ + bias
void chainrule_linear(const Matrix* matrix, const float* x, int64_t rows, float* y, int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        const int thread = thread_number(), count = thread_count();
        Share mine = share(matrix->rows, thread, count, 4);
        multiply(*matrix, x, matrix->columns, rows, mine.first, mine.last, {y, matrix->rows, nullptr, false, 1});
    }
}

// A matrix as float32, (rows, columns).
void chainrule_widen(const Matrix* matrix, float* to, int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        Share mine = share(matrix->rows, thread_number(), thread_count());
        for (long row = mine.first; row < mine.last; row++) widen_row(*matrix, row, to + row * matrix->columns);
    }
}

// Of each row of logits (rows, width): the first column of the greatest, and log Σ e^logit.
void chainrule_best(const float* logits, int64_t rows, int64_t width, int64_t* best, float* total, int64_t threads) {
#pragma omp parallel for num_threads(threads)
    for (int64_t row = 0; row < rows; row++) summarise(logits + row * width, width, best + row, total + row);
}

// All layers and the last norm: x (count, D) to hidden states, in x itself.
void chainrule_forward(
    const Model* model, const Rows* rows, const KeysValues* cache, float* x, int64_t threads) {
    const long N = rows->count, D = model->width, K = model->head_width, H = model->heads;
    const long all = (H + 2 * model->key_value_heads) * K, wide = model->gated ? 2 * model->hidden : model->hidden;
    static thread_local Memory memory;
    const long sizes[] = {N * D, N * D, N * all, N * H * K, std::min(N, MLP_ROWS) * wide, N * D};
    long total = 0;
    for (long size : sizes) total += (size + 15) / 16 * 16;
    float *part[6], *next = memory.floats(total);
    for (int i = 0; i < 6; i++) part[i] = next, next += (sizes[i] + 15) / 16 * 16;
    Pass pass{*model, *rows, *cache, x, part[0], part[1], part[2], part[3], part[4], part[5]};
#pragma omp parallel num_threads(threads)
    {
        pass.run(thread_number(), thread_count());
    }
}

}  // extern "C"
