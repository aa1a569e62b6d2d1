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

inline long padded(long count) { return (count + V - 1) / V * V; }

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

// A query or key as attention uses it, to[i * step]: RMSNorm, rotation, and a factor.
void turned(const Attention& a, const float* x, const float* gain, long position, float factor, float* to, long step) {
    const long K = a.head_width, half = a.rotary_width / 2;
    float normal[1024];
    float scale = factor;
    if (gain) {
        float square = 0;
#pragma omp simd reduction(+ : square)
        for (long i = 0; i < K; i++) square += x[i] * x[i];
        scale *= 1.0f / std::sqrt(square / K + a.epsilon);
#pragma omp simd
        for (long i = 0; i < K; i++) normal[i] = x[i] * scale * gain[i];
    } else {
#pragma omp simd
        for (long i = 0; i < K; i++) normal[i] = x[i] * scale;
    }
    const float *cosine = a.cosine + position * 2 * half, *sine = a.sine + position * 2 * half;
    float turn[1024];
#pragma omp simd
    for (long i = 0; i < half; i++) {
        turn[i] = normal[i] * cosine[i] - normal[half + i] * sine[i];
        turn[half + i] = normal[half + i] * cosine[half + i] + normal[i] * sine[half + i];
    }
    for (long i = 2 * half; i < K; i++) turn[i] = normal[i];
    for (long i = 0; i < K; i++) to[i * step] = turn[i];
}

// The gradient of `x` from that of what `turned` made of it, and what it adds to that of the gain.
void turned_back(const Attention& a, const float* x, const float* gain, long position, float factor,
                 const float* d_turned, float* d_x, float* d_gain) {
    const long K = a.head_width, half = a.rotary_width / 2;
    const float *cosine = a.cosine + position * 2 * half, *sine = a.sine + position * 2 * half;
    float d_normal[1024];
#pragma omp simd
    for (long i = 0; i < half; i++) {
        d_normal[i] = (d_turned[i] * cosine[i] + d_turned[half + i] * sine[half + i]) * factor;
        d_normal[half + i] = (d_turned[half + i] * cosine[half + i] - d_turned[i] * sine[i]) * factor;
    }
    for (long i = 2 * half; i < K; i++) d_normal[i] = d_turned[i] * factor;
    if (!gain) {
        for (long i = 0; i < K; i++) d_x[i] = d_normal[i];
        return;
    }
    float square = 0, along = 0;
#pragma omp simd reduction(+ : square, along)
    for (long i = 0; i < K; i++) square += x[i] * x[i], along += d_normal[i] * gain[i] * x[i];
    const float scale = 1.0f / std::sqrt(square / K + a.epsilon);
    along *= scale * scale * scale / K;
#pragma omp simd
    for (long i = 0; i < K; i++) {
        d_gain[i] += d_normal[i] * x[i] * scale;
        d_x[i] = d_normal[i] * gain[i] * scale - x[i] * along;
    }
}

// What the pass over one sequence and key-value head needs, in one piece of memory.
class Buffers {
public:
    Buffers(Memory& memory, const Attention& a, bool backward)
        : T(padded(a.positions)), K(padded(a.head_width)),
          next(memory.floats((backward ? 9 : 3) * T * K + (backward ? 2 * QUERIES : ROWS) * T)) {}
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

// softmax(q kᵀ · scale, causal) v of the heads that share a key-value head.
void attend(const Attention& a, long sequence, long group, Memory& memory) {
    const long T = a.positions, K = a.head_width, H = a.heads, G = a.key_value_heads, all = (H + 2 * G) * K;
    Buffers buffers(memory, a, false);
    const long TP = buffers.T, KP = buffers.K;
    float *keys = buffers.floats(KP * TP, true), *values = buffers.floats(TP * KP, true);  // (K, T), (T, K)
    float *queries = buffers.floats(TP * KP, true), *scores = buffers.floats(ROWS * TP, false);
    const float* from = a.query_key_value + sequence * T * all;
    for (long t = 0; t < T; t++) {
        turned(a, from + t * all + (H + group) * K, a.key_gain, t, 1.0f, keys + t, TP);
        std::memcpy(values + t * KP, from + t * all + (H + G + group) * K, 4 * K);
    }
    for (long head = group * (H / G); head < (group + 1) * (H / G); head++) {
        for (long t = 0; t < T; t++)
            turned(a, from + t * all + head * K, a.query_gain, t, a.scale, queries + t * KP, 1);
        for (long first = 0; first < T; first += ROWS) {
            const long rows = std::min(long(ROWS), T - first), seen = padded(first + rows);
            few_rows({queries + first * KP, KP, 1}, keys, TP, K, scores, TP, rows, seen, false);
            for (long r = 0; r < rows; r++) {
                float* score = scores + r * TP;
                for (long s = first + r + 1; s < seen; s++) score[s] = -INFINITY;
                Floats best = load<Floats>(score), total{};
                for (long s = V; s < seen; s += V) {
                    Floats value = load<Floats>(score + s);
                    best = value > best ? value : best;
                }
                float greatest = best[0], sum = 0;
                for (int i = 1; i < V; i++) greatest = std::max(greatest, float(best[i]));
                for (long s = 0; s < seen; s += V) {
                    Floats value = exponential(load<Floats>(score + s) - greatest);
                    store(score + s, value);
                    total += value;
                }
                for (int i = 0; i < V; i++) sum += total[i];
                a.log_sums[(sequence * H + head) * T + first + r] = greatest + std::log(sum);
                const float inverse = 1.0f / sum;
                for (long s = 0; s < seen; s += V) store(score + s, load<Floats>(score + s) * inverse);
            }
            // The queries of these rows were read: their place takes the output.
            few_rows({scores, TP, 1}, values, KP, first + rows, queries + first * KP, KP, rows, KP, false);
            for (long r = 0; r < rows; r++)
                std::memcpy(a.mixed + (sequence * T + first + r) * H * K + head * K, queries + (first + r) * KP, 4 * K);
        }
    }
}

void attend_back(const Attention& a, const AttentionGradient& d, long sequence, long group, int thread, Memory& memory) {
    const long T = a.positions, K = a.head_width, H = a.heads, G = a.key_value_heads, all = (H + 2 * G) * K;
    Buffers buffers(memory, a, true);
    const long TP = buffers.T, KP = buffers.K;
    auto piece = [&](bool zero) { return buffers.floats(TP * KP, zero); };
    float *keys = piece(true), *keys_across = piece(true), *values_across = piece(true);  // (T, K), (K, T), (K, T)
    float *queries = piece(true), *d_mixed = piece(true);
    float *d_queries = piece(false), *d_keys = piece(true), *d_values = piece(true);
    float *weights = buffers.floats(QUERIES * TP, false), *d_scores = buffers.floats(QUERIES * TP, false);
    const float* from = a.query_key_value + sequence * T * all;
    float* to = d.query_key_value + sequence * T * all;
    for (long t = 0; t < T; t++) {
        turned(a, from + t * all + (H + group) * K, a.key_gain, t, 1.0f, keys + t * KP, 1);
        const float* value = from + t * all + (H + G + group) * K;
        for (long i = 0; i < K; i++) keys_across[i * TP + t] = keys[t * KP + i], values_across[i * TP + t] = value[i];
    }
    for (long head = group * (H / G); head < (group + 1) * (H / G); head++) {
        const long at = sequence * T * H * K + head * K;
        for (long t = 0; t < T; t++) {
            turned(a, from + t * all + head * K, a.query_gain, t, a.scale, queries + t * KP, 1);
            std::memcpy(d_mixed + t * KP, d.mixed + at + t * H * K, 4 * K);
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
                    const float *d_out = d_mixed + t * KP, *out = a.mixed + at + t * H * K;
                    const float log_sum = a.log_sums[(sequence * H + head) * T + t];
                    float along = 0;
#pragma omp simd reduction(+ : along)
                    for (long i = 0; i < K; i++) along += d_out[i] * out[i];
                    for (long s = t + 1; s < seen; s++) weight[s] = -INFINITY;
                    for (long s = 0; s < seen; s += V) {
                        Floats value = exponential(load<Floats>(weight + s) - log_sum);
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
        std::memcpy(to + key + G * K, d_values + t * KP, 4 * K);
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
    float *now = memory.floats(2 * r * cp + c * rp + 2 * r * rp), *then = now + r * cp, *across = then + r * cp;
    float *gram = across + c * rp, *square = gram + r * rp;
    std::memset(now, 0, 4 * (2 * r * cp + c * rp + 2 * r * rp));
    double total = 0;
    for (long i = 0; i < r; i++) {
        float part = 0;
#pragma omp simd reduction(+ : part)
        for (long k = 0; k < c; k++) part += x[i * c + k] * x[i * c + k];
        total += part;
    }
    const float inverse = 1.0f / (float(std::sqrt(total)) + 1e-7f);
    for (long i = 0; i < r; i++)
#pragma omp simd
        for (long k = 0; k < c; k++) now[i * cp + k] = x[i * c + k] * inverse;
    for (int step = 0; step < 5; step++) {
        for (long i = 0; i < r; i += 16)
            for (long k = 0; k < c; k++)
                for (long j = i; j < std::min(i + 16, r); j++) across[k * rp + j] = now[j * cp + k];
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
        int thread = 0;
#ifdef _OPENMP
        thread = omp_get_thread_num();
#endif
        attend_back(*a, *d, task / a->key_value_heads, task % a->key_value_heads, thread, memory);
    }
}

// y = x · scale · gain with scale = 1 / √(mean(x²) + ε), (N, D); scales (N).
void chainrule_rms_norm(
    const float* x, const float* gain, float epsilon, int64_t rows, int64_t width, float* y, float* scales, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (long row = 0; row < rows; row++) {
        const float* from = x + row * width;
        float *to = y + row * width, square = 0;
#pragma omp simd reduction(+ : square)
        for (long i = 0; i < width; i++) square += from[i] * from[i];
        const float scale = 1.0f / std::sqrt(square / width + epsilon);
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
        int thread = 0;
#ifdef _OPENMP
        thread = omp_get_thread_num();
#endif
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

// y (rows, columns) = a · b: for measuring.
void chainrule_product(const float* a, int64_t a_row, int64_t a_step, const float* b, int64_t b_row, float* y, int64_t rows,
                       int64_t inner, int64_t columns, int64_t threads) {
    const long tiles_ = (rows + ROWS - 1) / ROWS;
    constexpr long INNER = 128;
#pragma omp parallel num_threads(threads)
    {
        long first = tiles_ * omp_get_thread_num() / omp_get_num_threads() * ROWS, last = std::min(long(rows), tiles_ * (omp_get_thread_num() + 1) / omp_get_num_threads() * ROWS);
        for (long k = 0; k < inner; k += INNER)
            for (long n = 0; n < columns; n += 2 * V)
                for (long row = first; row < last; row += ROWS)
                    few_rows({a + row * a_row + k * a_step, a_row, a_step}, b + k * b_row + n, b_row, std::min(INNER, inner - k), y + row * columns + n, columns, std::min(long(ROWS), last - row), std::min(2L * V, columns - n), k > 0);
    }
}

}  // extern "C"
