// Training of a Transformer on a CPU in float32: what stands between its linear maps, forward and backward, each read
// and written once, and Muon's Newton-Schulz steps.
//
// Each function computes what the operations of torch named beside it compute; kernels.py holds the two beside each
// other. Every sum has one order, whatever else is computed with it.
//
// Shapes: B sequences, T positions, H heads, G key-value heads, K head width, D width, F hidden width, N rows.

#include <algorithm>
#include <cmath>

#include "vectors.h"

namespace {

constexpr int ROWS = V == 16 ? 12 : V == 8 ? 6 : 4, FEWER = V == 16 ? 4 : 2;  // of a tile whose sums fit the registers
constexpr long QUERIES = 4 * ROWS;  // whose attention weights are kept at once in the backward pass

inline float sum(float x) { return x; }

inline long padded(long count) { return (count + V - 1) / V * V; }

struct Share {
    long first, last;
    int thread;
};

// This thread's part of `count` rows, whole tiles of them.
Share share(long count) {
    const int thread = thread_number(), threads = thread_count();
    const long tiles = (count + ROWS - 1) / ROWS;
    return {std::min(tiles * thread / threads * ROWS, count), std::min(tiles * (thread + 1) / threads * ROWS, count), thread};
}

// A matrix whose element (i, k) is at[i * row + k * step].
struct Strided {
    const float* at;
    long row, step;
};

// Of c (R rows, W registers) the product a · b over `inner`, added to what is there if `add`; b has rows of columns.
template <int R, int W>
inline void tile(Strided a, const float* b, long b_row, long inner, float* c, long c_row, bool add) {
    Floats total[R][W];
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
        for (int w = 0; w < W; w++) total[r][w] = add ? load<Floats>(c + r * c_row + w * V) : Floats{};
    for (long k = 0; k < inner; k++) {
        Floats right[W];
#pragma GCC unroll 2
        for (int w = 0; w < W; w++) right[w] = load<Floats>(b + k * b_row + w * V);
#pragma GCC unroll 12
        for (int r = 0; r < R; r++) {
            const float left = a.at[r * a.row + k * a.step];
#pragma GCC unroll 2
            for (int w = 0; w < W; w++) total[r][w] += left * right[w];
        }
    }
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
        for (int w = 0; w < W; w++) store(c + r * c_row + w * V, total[r][w]);
}

template <int R>
inline void tiles(Strided a, const float* b, long b_row, long inner, float* c, long c_row, long columns, bool add) {
    long n = 0;
    for (; n + 2 * V <= columns; n += 2 * V) tile<R, 2>(a, b + n, b_row, inner, c + n, c_row, add);
    for (; n < columns; n += V) tile<R, 1>(a, b + n, b_row, inner, c + n, c_row, add);
}

// c (rows, columns) = a · b, or increased by it; at most ROWS rows, and columns up to a multiple of V.
void few_rows(Strided a, const float* b, long b_row, long inner, float* c, long c_row, long rows, long columns, bool add) {
    long r = 0;
    auto left = [&] { return Strided{a.at + r * a.row, a.row, a.step}; };
    if (rows == ROWS) return tiles<ROWS>(a, b, b_row, inner, c, c_row, columns, add);
    for (; r + FEWER <= rows; r += FEWER) tiles<FEWER>(left(), b, b_row, inner, c + r * c_row, c_row, columns, add);
    for (; r < rows; r++) tiles<1>(left(), b, b_row, inner, c + r * c_row, c_row, columns, add);
}

// Attention ----------------------------------------------------------------------------------------------------------

struct Attention {
    int64_t sequences, positions, heads, key_value_heads, head_width, rotary_width;
    float scale, epsilon;       // of the scores; of the norms of queries and keys
    const float *query_key_value;  // (B, T, (H + 2 G) K)
    const float *query_gain, *key_gain;  // (K), or null: no norms
    const float *cosine, *sine;          // (T, rotary width), or null
    float *mixed;                        // (B, T, H K)
    float *log_sums;                     // (B, H, T): log Σ exp of each query's scores
};

struct AttentionGradient {
    const float *mixed;                // (B, T, H K), the gradient of the output
    float *query_key_value;            // (B, T, (H + 2 G) K)
    float *query_gain, *key_gain;      // (threads, K) each, zero before
};

inline float dot(const float* a, const float* b, long count) {
    Floats total{};
    long i = 0;
    for (; i + V <= count; i += V) total += load<Floats>(a + i) * load<Floats>(b + i);
    float found = sum(total);
    for (; i < count; i++) found += a[i] * b[i];
    return found;
}

// A query or key as attention uses it: RMSNorm, rotation, and a factor. X is Floats, or float where K or the half of the
// rotary width is no multiple of V.
template <class X>
void turn(const Attention& a, const float* x, const float* gain, long position, float factor, float* to) {
    const long K = a.head_width, half = a.rotary_width / 2, step = sizeof(X) / sizeof(float);
    const float *cosine = a.cosine + position * 2 * half, *sine = a.sine + position * 2 * half;
    const float scale = gain ? factor / std::sqrt(dot(x, x, K) / K + a.epsilon) : factor;
    auto normal = [&](long i) { return gain ? load<X>(x + i) * scale * load<X>(gain + i) : load<X>(x + i) * scale; };
    for (long i = 0; i < half; i += step) {
        const X first = normal(i), second = normal(half + i);
        const X one = first * load<X>(cosine + i) - second * load<X>(sine + i);
        const X two = second * load<X>(cosine + half + i) + first * load<X>(sine + half + i);
        std::memcpy(to + i, &one, sizeof one);
        std::memcpy(to + half + i, &two, sizeof two);
    }
    for (long i = 2 * half; i < K; i += step) {
        const X plain = normal(i);
        std::memcpy(to + i, &plain, sizeof plain);
    }
}

// The gradient of `x` from that of what `turn` made of it, which is changed, and what it adds to that of the gain.
template <class X>
void turn_back(const Attention& a, const float* x, const float* gain, long position, float factor, float* d_turned,
               float* d_x, float* d_gain) {
    const long K = a.head_width, half = a.rotary_width / 2, step = sizeof(X) / sizeof(float);
    const float *cosine = a.cosine + position * 2 * half, *sine = a.sine + position * 2 * half;
    for (long i = 0; i < half; i += step) {
        const X first = load<X>(d_turned + i), second = load<X>(d_turned + half + i);
        const X one = first * load<X>(cosine + i) + second * load<X>(sine + half + i);
        const X two = second * load<X>(cosine + half + i) - first * load<X>(sine + i);
        std::memcpy(d_turned + i, &one, sizeof one);
        std::memcpy(d_turned + half + i, &two, sizeof two);
    }
    X along{};
    if (gain)
        for (long i = 0; i < K; i += step) along += load<X>(d_turned + i) * load<X>(gain + i) * load<X>(x + i);
    const float inverse = gain ? 1.0f / std::sqrt(dot(x, x, K) / K + a.epsilon) : 1.0f, scale = factor * inverse;
    const float back = gain ? sum(along) * scale * inverse * inverse / K : 0.0f;
    for (long i = 0; i < K; i += step) {
        const X d = load<X>(d_turned + i) * scale, value = load<X>(x + i);
        const X d_value = gain ? d * load<X>(gain + i) - value * back : d;
        std::memcpy(d_x + i, &d_value, sizeof d_value);
        if (!gain) continue;
        const X total = load<X>(d_gain + i) + d * value;
        std::memcpy(d_gain + i, &total, sizeof total);
    }
}

inline bool whole_registers(const Attention& a) { return a.head_width % V == 0 && a.rotary_width % (2 * V) == 0; }

inline void turned(const Attention& a, const float* x, const float* gain, long position, float factor, float* to) {
    whole_registers(a) ? turn<Floats>(a, x, gain, position, factor, to) : turn<float>(a, x, gain, position, factor, to);
}

inline void turned_back(const Attention& a, const float* x, const float* gain, long position, float factor,
                        float* d_turned, float* d_x, float* d_gain) {
    whole_registers(a) ? turn_back<Floats>(a, x, gain, position, factor, d_turned, d_x, d_gain)
                       : turn_back<float>(a, x, gain, position, factor, d_turned, d_x, d_gain);
}

// What the pass over one sequence and key-value head needs, in one piece of memory.
class Buffers {
public:
    Buffers(Memory& memory, const Attention& a, bool backward)
        : T(padded(a.positions)), K(padded(a.head_width)),
          next(memory.floats((backward ? 9 : 4) * T * K + (backward ? 2 * QUERIES : ROWS) * T)) {}
    float* floats(long count, bool zero) {
        float* found = next;
        next += count;
        if (zero) std::memset(found, 0, 4 * count);
        return found;
    }
    const long T, K;

private:
    float* next;
};

inline void copy(const float* from, long count, float* to) {
    long i = 0;
    for (; i + V <= count; i += V) store(to + i, load<Floats>(from + i));
    for (; i < count; i++) to[i] = from[i];
}

inline float greatest(Floats x) {
    float lane[V], found = -INFINITY;
    store(lane, x);
    for (int half = V / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lane[i] = std::max(lane[i], lane[i + half]);
    return std::max(found, lane[0]);
}

// The scores of V keys, of which those after the `last` one are not seen.
inline Floats causal(Floats scores, long last) {
    if (last >= V - 1) return scores;
    Ints lane;
    for (int i = 0; i < V; i++) lane[i] = i;
    return lane > int(last) ? Floats{} - INFINITY : scores;
}

// V x V numbers: log V times, each row of the first half is interleaved with one of the second.
inline void transpose_registers(const float* from, long row, float* to, long to_row) {
    Floats x[V], y[V];
    for (int i = 0; i < V; i++) x[i] = load<Floats>(from + i * row);
    for (int step = 1; step < V; step *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < V / 2; i++) {
#if defined(__AVX512F__)
            y[2 * i] = __builtin_shufflevector(x[i], x[i + V / 2], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            y[2 * i + 1] = __builtin_shufflevector(x[i], x[i + V / 2], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif defined(__AVX2__)
            y[2 * i] = __builtin_shufflevector(x[i], x[i + V / 2], 0, 8, 1, 9, 2, 10, 3, 11);
            y[2 * i + 1] = __builtin_shufflevector(x[i], x[i + V / 2], 4, 12, 5, 13, 6, 14, 7, 15);
#else
            y[2 * i] = __builtin_shufflevector(x[i], x[i + V / 2], 0, 4, 1, 5);
            y[2 * i + 1] = __builtin_shufflevector(x[i], x[i + V / 2], 2, 6, 3, 7);
#endif
        }
        for (int i = 0; i < V; i++) x[i] = y[i];
    }
    for (int i = 0; i < V; i++) store(to + i * to_row, x[i]);
}

// (rows, columns) to (columns, rows), both multiples of V.
void transpose(const float* from, long rows, long columns, float* to) {
    for (long row = 0; row < rows; row += V)
        for (long column = 0; column < columns; column += V)
            transpose_registers(from + row * columns + column, columns, to + column * rows + row, rows);
}

constexpr long AHEAD = 6;  // tokens: a head's part of each lies far from the one before, so no processor foresees it

inline void fetch(const float* from, long count) {
    for (long i = 0; i < count; i += 16) __builtin_prefetch(from + i);
}

// softmax(q kᵀ · scale, causal) v of the heads that share a key-value head.
void attend(const Attention& a, long sequence, long group, Memory& memory) {
    const long T = a.positions, K = a.head_width, H = a.heads, G = a.key_value_heads, all = (H + 2 * G) * K;
    Buffers buffers(memory, a, false);
    const long TP = buffers.T, KP = buffers.K;
    auto piece = [&] { return buffers.floats(TP * KP, true); };
    float *keys = piece(), *across = piece(), *values = piece(), *queries = piece();  // keys (K, T); others (T, K)
    float* scores = buffers.floats(ROWS * TP, false);
    const float* from = a.query_key_value + sequence * T * all;
    for (long t = 0; t < T; t++) {
        fetch(from + (t + AHEAD) * all + (H + group) * K, K);
        fetch(from + (t + AHEAD) * all + (H + G + group) * K, K);
        turned(a, from + t * all + (H + group) * K, a.key_gain, t, 1.0f, across + t * KP);
        copy(from + t * all + (H + G + group) * K, K, values + t * KP);
    }
    transpose(across, TP, KP, keys);
    for (long head = group * (H / G); head < (group + 1) * (H / G); head++) {
        for (long t = 0; t < T; t++) {
            fetch(from + (t + AHEAD) * all + head * K, K);
            turned(a, from + t * all + head * K, a.query_gain, t, a.scale, queries + t * KP);
        }
        for (long first = 0; first < T; first += ROWS) {
            const long rows = std::min(long(ROWS), T - first), seen = padded(first + rows);
            few_rows({queries + first * KP, KP, 1}, keys, TP, K, scores, TP, rows, seen, false);
            for (long r = 0; r < rows; r++) {
                float* score = scores + r * TP;
                Floats best = Floats{} - INFINITY, total{};
                for (long s = 0; s < seen; s += V) {
                    const Floats value = causal(load<Floats>(score + s), first + r - s);
                    store(score + s, value);
                    best = value > best ? value : best;
                }
                const float top = greatest(best);
                for (long s = 0; s < seen; s += V) {
                    const Floats value = exponential(load<Floats>(score + s) - top);
                    store(score + s, value);
                    total += value;
                }
                const float all_weights = sum(total), inverse = 1.0f / all_weights;
                a.log_sums[(sequence * H + head) * T + first + r] = top + std::log(all_weights);
                for (long s = 0; s < seen; s += V) store(score + s, load<Floats>(score + s) * inverse);
            }
            // The queries of these rows were read: their place takes the output.
            few_rows({scores, TP, 1}, values, KP, first + rows, queries + first * KP, KP, rows, KP, false);
            for (long r = 0; r < rows; r++)
                copy(queries + (first + r) * KP, K, a.mixed + (sequence * T + first + r) * H * K + head * K);
        }
    }
}

void attend_back(const Attention& a, const AttentionGradient& d, long sequence, long group, int thread, Memory& memory) {
    const long T = a.positions, K = a.head_width, H = a.heads, G = a.key_value_heads, all = (H + 2 * G) * K;
    Buffers buffers(memory, a, true);
    const long TP = buffers.T, KP = buffers.K;
    auto piece = [&](bool zero) { return buffers.floats(TP * KP, zero); };
    float *keys = piece(true), *keys_across = piece(false), *values_across = piece(false);  // (T, K), (K, T), (K, T)
    float *queries = piece(true), *d_mixed = piece(true);
    float *d_queries = piece(false), *d_keys = piece(true), *d_values = piece(true);
    float *weights = buffers.floats(QUERIES * TP, false), *d_scores = buffers.floats(QUERIES * TP, false);
    const float* from = a.query_key_value + sequence * T * all;
    float* to = d.query_key_value + sequence * T * all;
    for (long t = 0; t < T; t++) {
        fetch(from + (t + AHEAD) * all + (H + group) * K, K);
        fetch(from + (t + AHEAD) * all + (H + G + group) * K, K);
        turned(a, from + t * all + (H + group) * K, a.key_gain, t, 1.0f, keys + t * KP);
        copy(from + t * all + (H + G + group) * K, K, queries + t * KP);
    }
    transpose(keys, TP, KP, keys_across);
    transpose(queries, TP, KP, values_across);
    for (long head = group * (H / G); head < (group + 1) * (H / G); head++) {
        const long at = sequence * T * H * K + head * K;
        for (long t = 0; t < T; t++) {
            fetch(from + (t + AHEAD) * all + head * K, K);
            fetch(d.mixed + at + (t + AHEAD) * H * K, K);
            turned(a, from + t * all + head * K, a.query_gain, t, a.scale, queries + t * KP);
            copy(d.mixed + at + t * H * K, K, d_mixed + t * KP);
        }
        for (long block = 0; block < T; block += QUERIES) {
            const long end = std::min(block + QUERIES, T);
            for (long first = block; first < end; first += ROWS) {
                const long rows = std::min(long(ROWS), end - first), seen = padded(first + rows);
                float *weight = weights + (first - block) * TP, *d_score = d_scores + (first - block) * TP;
                few_rows({queries + first * KP, KP, 1}, keys_across, TP, K, weight, TP, rows, seen, false);
                few_rows({d_mixed + first * KP, KP, 1}, values_across, TP, K, d_score, TP, rows, seen, false);
                for (long r = 0; r < rows; r++, weight += TP, d_score += TP) {
                    const long t = first + r;
                    const float log_sum = a.log_sums[(sequence * H + head) * T + t];
                    const float along = dot(d_mixed + t * KP, a.mixed + at + t * H * K, K);
                    for (long s = 0; s < seen; s += V) {
                        const Floats value = exponential(causal(load<Floats>(weight + s), t - s) - log_sum);
                        store(weight + s, value);
                        store(d_score + s, value * (load<Floats>(d_score + s) - along));
                    }
                }
                few_rows({d_scores + (first - block) * TP, TP, 1}, keys, KP, first + rows, d_queries + first * KP, KP, rows,
                         KP, false);
            }
            for (long key = 0; key < end; key += ROWS) {  // by the queries that see them
                const long rows = std::min(long(ROWS), end - key), query = std::max(block, key / ROWS * ROWS);
                const long skipped = (query - block) * TP + key, inner = end - query;
                few_rows({weights + skipped, 1, TP}, d_mixed + query * KP, KP, inner, d_values + key * KP, KP, rows, KP, true);
                few_rows({d_scores + skipped, 1, TP}, queries + query * KP, KP, inner, d_keys + key * KP, KP, rows, KP, true);
            }
        }
        for (long t = 0; t < T; t++)
            turned_back(a, from + t * all + head * K, a.query_gain, t, a.scale, d_queries + t * KP, to + t * all + head * K,
                        d.query_gain + thread * K);
    }
    for (long t = 0; t < T; t++) {
        const long key = t * all + (H + group) * K;
        turned_back(a, from + key, a.key_gain, t, 1.0f, d_keys + t * KP, to + key, d.key_gain + thread * K);
        copy(d_values + t * KP, K, to + key + G * K);
    }
}

// MLP ------------------------------------------------------------------------------------------------------------------

struct MLP {  // h + W_down (silu(gate) · up) with gate, up = W_up RMSNorm(h); D and F are multiples of V
    int64_t rows, width, hidden;
    float epsilon;
    const float *h, *gain, *up_weight, *down_weight;  // (N, D), (D), (2 F, D), (D, F)
    float *gate_and_up, *out;                         // (N, 2 F), (N, D)
    float *up_across, *down_across;                   // (D, 2 F), (F, D): room for the weights as products read them
};

struct MLPGradient {
    const float* out;                                 // (N, D), of the output
    float *h, *gain, *up_weight, *down_weight;        // (N, D); (threads, …) each, zero before
};

constexpr long CHUNK = 5 * ROWS;  // rows whose activations stay in a core's cache from one product to the next

// c (rows, columns) = a · b, or increased by it, panel by panel of b.
void product(Strided a, const float* b, long b_row, long inner, float* c, long c_row, long rows, long columns, bool add) {
    for (long n = 0; n < columns; n += 2 * V)
        for (long r = 0; r < rows; r += ROWS)
            few_rows({a.at + r * a.row, a.row, a.step}, b + n, b_row, inner, c + r * c_row + n, c_row,
                     std::min(long(ROWS), rows - r), std::min(2L * V, columns - n), add);
}

inline void normalise(const float* x, const float* gain, float epsilon, long width, float* y) {
    const float scale = 1.0f / std::sqrt(dot(x, x, width) / width + epsilon);
#pragma omp simd
    for (long i = 0; i < width; i++) y[i] = x[i] * scale * gain[i];
}

inline void activate(const float* gate, long count, float* to) {  // silu(gate) · up, which follows it
    for (long i = 0; i < count; i += V) {
        const Floats z = load<Floats>(gate + i);
        store(to + i, z / (1.0f + exponential(-z)) * load<Floats>(gate + count + i));
    }
}

void mlp_rows(const MLP& m, long first, long last, Memory& memory) {
    const long D = m.width, F = m.hidden;
    float *normed = memory.floats(CHUNK * (D + F)), *hidden = normed + CHUNK * D;
    for (long start = first; start < last; start += CHUNK) {
        const long rows = std::min(CHUNK, last - start);
        float *up = m.gate_and_up + start * 2 * F, *out = m.out + start * D;
        for (long r = 0; r < rows; r++) normalise(m.h + (start + r) * D, m.gain, m.epsilon, D, normed + r * D);
        product({normed, D, 1}, m.up_across, 2 * F, D, up, 2 * F, rows, 2 * F, false);
        for (long r = 0; r < rows; r++) activate(up + r * 2 * F, F, hidden + r * F);
        std::memcpy(out, m.h + start * D, 4 * rows * D);
        product({hidden, F, 1}, m.down_across, D, F, out, D, rows, D, true);
    }
}

void mlp_rows_back(const MLP& m, const MLPGradient& d, long first, long last, int thread, Memory& memory) {
    const long D = m.width, F = m.hidden;
    float *normed = memory.floats(CHUNK * (2 * D + 4 * F)), *d_normed = normed + CHUNK * D;
    float *hidden = d_normed + CHUNK * D, *d_hidden = hidden + CHUNK * F, *d_up = d_hidden + CHUNK * F;
    float *d_gain = d.gain + thread * D, *d_up_weight = d.up_weight + thread * 2 * F * D;
    float* d_down_weight = d.down_weight + thread * D * F;
    for (long start = first; start < last; start += CHUNK) {
        const long rows = std::min(CHUNK, last - start);
        const float *up = m.gate_and_up + start * 2 * F, *d_out = d.out + start * D;
        product({d_out, D, 1}, m.down_weight, F, D, d_hidden, F, rows, F, false);
        for (long r = 0; r < rows; r++) {
            const float *gate = up + r * 2 * F, *d_to = d_hidden + r * F;
            float* d_gate = d_up + r * 2 * F;
            for (long i = 0; i < F; i += V) {
                const Floats z = load<Floats>(gate + i), u = load<Floats>(gate + F + i), to = load<Floats>(d_to + i);
                const Floats sigmoid = 1.0f / (1.0f + exponential(-z)), silu = z * sigmoid;
                store(hidden + r * F + i, silu * u);
                store(d_gate + F + i, to * silu);
                store(d_gate + i, to * u * sigmoid * (1.0f + z * (1.0f - sigmoid)));
            }
            normalise(m.h + (start + r) * D, m.gain, m.epsilon, D, normed + r * D);
        }
        product({d_out, 1, D}, hidden, F, rows, d_down_weight, F, D, F, true);
        product({d_up, 1, 2 * F}, normed, D, rows, d_up_weight, D, 2 * F, D, true);
        product({d_up, 2 * F, 1}, m.up_weight, D, 2 * F, d_normed, D, rows, D, false);
        for (long r = 0; r < rows; r++) {
            const float *x = m.h + (start + r) * D, *back = d_normed + r * D;
            float *d_x = d.h + (start + r) * D, along = 0;
            const float scale = 1.0f / std::sqrt(dot(x, x, D) / D + m.epsilon);
#pragma omp simd reduction(+ : along)
            for (long i = 0; i < D; i++) along += back[i] * m.gain[i] * x[i];
            along *= scale * scale * scale / D;
#pragma omp simd
            for (long i = 0; i < D; i++) {
                d_gain[i] += back[i] * x[i] * scale;
                d_x[i] = d_out[r * D + i] + back[i] * m.gain[i] * scale - x[i] * along;
            }
        }
    }
}

// Newton-Schulz --------------------------------------------------------------------------------------------------------

// c (r, r), symmetric, = a · b: the tiles above the diagonal are computed, the others copied from them.
void symmetric(const float* a, long a_row, const float* b, long b_row, long inner, float* c, long c_row, long r) {
    for (long row = 0; row < r; row += ROWS) {
        const long first = row / V * V;
        few_rows({a + row * a_row, a_row, 1}, b + first, b_row, inner, c + row * c_row + first, c_row,
                 std::min(long(ROWS), r - row), padded(r) - first, false);
    }
    for (long row = 0; row < r; row++)
        for (long column = 0; column < row / ROWS * ROWS / V * V; column++) c[row * c_row + column] = c[column * c_row + row];
}

// Five steps on x (r, c), r <= c, in place.
void orthogonalise(float* x, long r, long c, Memory& memory) {
    const long rp = padded(r), cp = padded(c);
    float *now = memory.floats(3 * rp * cp + 2 * r * rp), *then = now + rp * cp, *across = then + rp * cp;
    float *gram = across + cp * rp, *square = gram + r * rp;
    std::memset(now, 0, 4 * (3 * rp * cp + 2 * r * rp));
    double total = 0;
    for (long i = 0; i < r; i++) total += dot(x + i * c, x + i * c, c);
    const float inverse = 1.0f / (float(std::sqrt(total)) + 1e-7f);
    for (long i = 0; i < r; i++)
#pragma omp simd
        for (long k = 0; k < c; k++) now[i * cp + k] = x[i * c + k] * inverse;
    for (int step = 0; step < 5; step++) {
        transpose(now, rp, cp, across);
        symmetric(now, cp, across, rp, c, gram, rp, r);
        symmetric(gram, rp, gram, rp, r, square, rp, r);
        for (long i = 0; i < r * rp; i += V)
            store(square + i, -4.7750f * load<Floats>(gram + i) + 2.0315f * load<Floats>(square + i));
        for (long i = 0; i < r * cp; i += V) store(then + i, 3.4445f * load<Floats>(now + i));
        for (long row = 0; row < r; row += ROWS)
            few_rows({square + row * rp, rp, 1}, now, cp, r, then + row * cp, cp, std::min(long(ROWS), r - row), cp, true);
        std::swap(now, then);
    }
    for (long i = 0; i < r; i++) std::memcpy(x + i * c, now + i * cp, 4 * c);
}

}  // namespace

extern "C" {

// A thread is given whole sequences' heads, and always the same ones.
void chainrule_attention(const Attention* a, int64_t threads) {
    const long tasks = a->sequences * a->key_value_heads;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long task = 0; task < tasks; task++) {
        static thread_local Memory memory;
        attend(*a, task / a->key_value_heads, task % a->key_value_heads, memory);
    }
}

void chainrule_attention_gradient(const Attention* a, const AttentionGradient* d, int64_t threads) {
    const long tasks = a->sequences * a->key_value_heads;
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long task = 0; task < tasks; task++) {
        static thread_local Memory memory;
        const int thread = thread_number();
        attend_back(*a, *d, task / a->key_value_heads, task % a->key_value_heads, thread, memory);
    }
}

void chainrule_mlp(const MLP* m, int64_t threads) {
    const long D = m->width, F = m->hidden, columns = 2 * F / V + D / V;
#pragma omp parallel num_threads(threads)
    {
        static thread_local Memory memory;
#pragma omp for schedule(static)
        for (long column = 0; column < columns; column++) {  // the rows of weights that become V columns
            const bool up = column < 2 * F / V;
            const long rows = up ? 2 * F : D, inner = up ? D : F, first = (up ? column : column - 2 * F / V) * V;
            const float* from = (up ? m->up_weight : m->down_weight) + first * inner;
            for (long i = 0; i < inner; i += V)
                transpose_registers(from + i, inner, (up ? m->up_across : m->down_across) + i * rows + first, rows);
        }
        const Share mine = share(m->rows);
        mlp_rows(*m, mine.first, mine.last, memory);
    }
}

void chainrule_mlp_gradient(const MLP* m, const MLPGradient* d, int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        static thread_local Memory memory;
        const Share mine = share(m->rows);
        mlp_rows_back(*m, *d, mine.first, mine.last, mine.thread, memory);
    }
}

// y = x · scale · gain with scale = 1 / √(mean(x²) + ε), (N, D); scales (N).
void chainrule_rms_norm(
    const float* x, const float* gain, float epsilon, int64_t rows, int64_t width, float* y, float* scales, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < rows; row++) {
        const float* from = x + row * width;
        float* to = y + row * width;
        const float scale = 1.0f / std::sqrt(dot(from, from, width) / width + epsilon);
        scales[row] = scale;
#pragma omp simd
        for (long i = 0; i < width; i++) to[i] = from[i] * scale * gain[i];
    }
}

// d_gain is (threads, D), zero before.
void chainrule_rms_norm_gradient(
    const float* x, const float* gain, const float* scales, const float* d_y, int64_t rows, int64_t width, float* d_x,
    float* d_gain, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < rows; row++) {
        const int thread = thread_number();
        const float *from = x + row * width, *d_to = d_y + row * width, scale = scales[row];
        float *d_from = d_x + row * width, *total = d_gain + thread * width, along = 0;
#pragma omp simd reduction(+ : along)
        for (long i = 0; i < width; i++) along += d_to[i] * gain[i] * from[i];
        along *= scale * scale * scale / width;
#pragma omp simd
        for (long i = 0; i < width; i++) {
            total[i] += d_to[i] * from[i] * scale;
            d_from[i] = d_to[i] * gain[i] * scale - from[i] * along;
        }
    }
}

// silu(gate) · up: (N, 2 F) to (N, F).
void chainrule_swiglu(const float* x, int64_t rows, int64_t hidden, float* y, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < rows; row++) {
        const float *gate = x + row * 2 * hidden, *up = gate + hidden;
        float* to = y + row * hidden;
        long i = 0;
        for (; i + V <= hidden; i += V) {
            Floats z = load<Floats>(gate + i);
            store(to + i, z / (1.0f + exponential(-z)) * load<Floats>(up + i));
        }
        for (; i < hidden; i++) to[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
    }
}

void chainrule_swiglu_gradient(
    const float* x, const float* d_y, int64_t rows, int64_t hidden, float* d_x, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < rows; row++) {
        const float *gate = x + row * 2 * hidden, *up = gate + hidden, *d_to = d_y + row * hidden;
        float *d_gate = d_x + row * 2 * hidden, *d_up = d_gate + hidden;
        long i = 0;
        for (; i + V <= hidden; i += V) {
            Floats z = load<Floats>(gate + i), d = load<Floats>(d_to + i), s = 1.0f / (1.0f + exponential(-z));
            store(d_up + i, d * z * s);
            store(d_gate + i, d * load<Floats>(up + i) * s * (1.0f + z * (1.0f - s)));
        }
        for (; i < hidden; i++) {
            const float z = gate[i], s = 1.0f / (1.0f + std::exp(-z));
            d_up[i] = d_to[i] * z * s;
            d_gate[i] = d_to[i] * up[i] * s * (1.0f + z * (1.0f - s));
        }
    }
}

// losses (N): -log softmax(logits)[target]. If `factor` is not 0, logits (N, V) become `factor` times their gradient.
void chainrule_cross_entropy(
    float* logits, const int64_t* targets, int64_t rows, int64_t size, float factor, float* losses, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < rows; row++) {
        float *u = logits + row * size, wanted = u[targets[row]], greatest = -INFINITY, sum = 0;
#pragma omp simd reduction(max : greatest)
        for (long i = 0; i < size; i++) greatest = std::max(greatest, u[i]);
        Floats total{};
        long i = 0;
        for (; i + V <= size; i += V) {
            Floats p = exponential(load<Floats>(u + i) - greatest);
            if (factor != 0) store(u + i, p);
            total += p;
        }
        for (; i < size; i++) {
            const float p = std::exp(u[i] - greatest);
            if (factor != 0) u[i] = p;
            sum += p;
        }
        for (int j = 0; j < V; j++) sum += total[j];
        losses[row] = std::log(sum) + greatest - wanted;
        if (factor == 0) continue;
        const float inverse = factor / sum;
#pragma omp simd
        for (long j = 0; j < size; j++) u[j] *= inverse;
        u[targets[row]] -= factor;
    }
}

// x (N, r, c), r <= c, in place: the same singular vectors, singular values near 1.
void chainrule_orthogonal(float* x, int64_t count, int64_t r, int64_t c, int64_t threads) {
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long i = 0; i < count; i++) {
        static thread_local Memory memory;
        orthogonalise(x + i * r * c, r, c, memory);
    }
}

}  // extern "C"
