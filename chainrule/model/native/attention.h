// Attention of many queries, norms and gates of many rows, for transformer.cpp, which includes this file.
//
// Activations come in float32 or bfloat16 and leave in the same; between, they are float32.
//
// Shapes: B sequences, T queries, S keys, M of these that a mask is about, H heads, G key-value heads, K head width.

extern "C" {

struct Strides {  // in elements; the vectors of K are contiguous
    int64_t sequence, head, position;
};

struct Attention {
    int64_t kind;  // 0 float32, 1 bfloat16
    int64_t sequences, heads, key_value_heads, queries, keys, head_width;
    int64_t causal;  // the queries are at the last positions, and none attends to a later one
    const uint8_t *query, *key, *value;
    uint8_t* mixed;
    Strides query_strides, key_strides, value_strides, mixed_strides;
    const uint8_t* mask;  // (1 or B, 1 or T, M), 1 for a key attended to; null: none. Those before the last M all are.
    int64_t masked, mask_sequence, mask_position;  // M, and strides
    float scale, cap;  // a cap of 0: none
};

}  // extern "C"

namespace {

constexpr int QUERIES = V == 16 ? 6 : 4, LANES = V == 16 ? 4 : 2;  // sums of a tile fit the registers
constexpr long KEYS = LANES * V;                                   // keys, or numbers of values, of a tile

void read(int64_t kind, const uint8_t* from, float* to, long count) {
    if (kind == 0) {
        std::memcpy(to, from, 4 * count);
        return;
    }
    for (long i = 0; i < count; i++) {
        uint32_t bits = uint32_t(load<uint16_t>(from + 2 * i)) << 16;
        std::memcpy(to + i, &bits, 4);
    }
}

inline long rounded(long count, long unit) { return (count + unit - 1) / unit * unit; }

struct Panel {  // keys and values of one head of one sequence, in the order in which they are read
    float* keys;    // (S / KEYS, K, KEYS)
    float* values;  // (S, width)
    long width;     // K, rounded up
};

void gather(const Attention& all, long b, long g, Panel panel, long first, long last) {
    const long K = all.head_width, size = all.kind == 0 ? 4 : 2;
    static thread_local Memory memory;
    float* row = memory.floats(K);
    for (long s = first; s < last; s++) {
        float* tile = panel.keys + s / KEYS * K * KEYS + s % KEYS;
        float* value = panel.values + s * panel.width;
        if (s < all.keys) {
            const Strides &k = all.key_strides, &v = all.value_strides;
            read(all.kind, all.key + size * (b * k.sequence + g * k.head + s * k.position), row, K);
            read(all.kind, all.value + size * (b * v.sequence + g * v.head + s * v.position), value, K);
        } else {
            std::memset(row, 0, 4 * K);
            std::memset(value, 0, 4 * K);
        }
        for (long i = 0; i < K; i++) tile[i * KEYS] = row[i];
        for (long i = K; i < panel.width; i++) value[i] = 0;
    }
}

// Scores of the keys [first, last), multiples of KEYS, and the queries (QUERIES, K).
void scored(const Panel& panel, const float* queries, long K, float* scores, long room, long first, long last) {
    for (long s = first; s < last; s += KEYS) {
        const float* tile = panel.keys + s * K;
        Floats total[QUERIES][LANES];
        for (int r = 0; r < QUERIES; r++)
            for (int c = 0; c < LANES; c++) total[r][c] = Floats{};
        for (long i = 0; i < K; i++) {
            Floats key[LANES];
#pragma GCC unroll 4
            for (int c = 0; c < LANES; c++) key[c] = load<Floats>(tile + i * KEYS + c * V);
#pragma GCC unroll 6
            for (int r = 0; r < QUERIES; r++)
#pragma GCC unroll 4
                for (int c = 0; c < LANES; c++) total[r][c] += queries[r * K + i] * key[c];
        }
        for (int r = 0; r < QUERIES; r++)
            for (int c = 0; c < LANES; c++) store(scores + r * room + s + c * V, total[r][c]);
    }
}

// scores (QUERIES, room) times values, to `mixed` (QUERIES, width).
void weighted(const Panel& panel, const float* scores, long room, float* mixed, long first, long last) {
    for (long i = 0; i < panel.width; i += KEYS) {
        Floats total[QUERIES][LANES];
        for (int r = 0; r < QUERIES; r++)
            for (int c = 0; c < LANES; c++) total[r][c] = Floats{};
        for (long s = first; s < last; s++) {
            Floats value[LANES];
#pragma GCC unroll 4
            for (int c = 0; c < LANES; c++) value[c] = load<Floats>(panel.values + s * panel.width + i + c * V);
#pragma GCC unroll 6
            for (int r = 0; r < QUERIES; r++)
#pragma GCC unroll 4
                for (int c = 0; c < LANES; c++) total[r][c] += scores[r * room + s] * value[c];
        }
        for (int r = 0; r < QUERIES; r++)
            for (int c = 0; c < LANES; c++) store(mixed + r * panel.width + i + c * V, total[r][c]);
    }
}

// The sum of e^score over the keys before `end` that the mask allows; the scores become these e^score, others 0.
float exponentials(const Attention& all, long b, long t, float* score, long end, long last) {
    for (long s = 0; s < last; s += V) store(score + s, load<Floats>(score + s) * all.scale);
    if (all.cap > 0)
        for (long s = 0; s < end; s++) score[s] = all.cap * std::tanh(score[s] / all.cap);
    const long free = all.keys - all.masked;
    if (all.mask) {
        const uint8_t* mask = all.mask + b * all.mask_sequence + t * all.mask_position;
        for (long s = free; s < end; s++)
            if (!mask[s - free]) score[s] = -INFINITY;
    }
    for (long s = end; s < last; s++) score[s] = -INFINITY;
    Floats best = Floats{} - INFINITY;
    for (long s = 0; s < last; s += V) {
        Floats value = load<Floats>(score + s);
        best = value > best ? value : best;
    }
    float greatest = best[0];
    for (int i = 1; i < V; i++) greatest = std::max(greatest, float(best[i]));
    Floats total{};
    for (long s = 0; s < last; s += V) {
        Floats value = exponential(load<Floats>(score + s) - greatest);
        store(score + s, value);
        total += value;
    }
    return sum(total);
}

// Queries [first, last) of the heads that share keys: query t of the h-th of them is t · (H / G) + h.
void attend_shared(const Attention& all, long b, long g, const Panel& panel, long first, long last, Memory& memory) {
    const long K = all.head_width, group = all.heads / all.key_value_heads, room = rounded(all.keys, KEYS);
    const long size = all.kind == 0 ? 4 : 2;
    float* scores = memory.floats(QUERIES * (room + K + panel.width));
    float *queries = scores + QUERIES * room, *mixed = queries + QUERIES * K;
    for (long start = first; start < last; start += QUERIES) {
        const long count = std::min(long(QUERIES), last - start);
        long seen = 0, end[QUERIES];
        for (long r = 0; r < QUERIES; r++) {
            const long item = std::min(start + r, last - 1), t = item / group, h = g * group + item % group;
            const Strides& q = all.query_strides;
            read(all.kind, all.query + size * (b * q.sequence + h * q.head + t * q.position), queries + r * K, K);
            end[r] = all.causal ? all.keys - all.queries + t + 1 : all.keys;
            seen = std::max(seen, end[r]);
        }
        seen = rounded(seen, KEYS);
        scored(panel, queries, K, scores, room, 0, seen);
        float inverse[QUERIES];
        for (long r = 0; r < QUERIES; r++) {
            const long t = std::min(start + r, last - 1) / group;
            inverse[r] = 1.0f / exponentials(all, b, t, scores + r * room, end[r], seen);
        }
        weighted(panel, scores, room, mixed, 0, std::min(seen, all.keys));
        for (long r = 0; r < count; r++) {
            const long item = start + r, t = item / group, h = g * group + item % group;
            for (long i = 0; i < K; i++) mixed[r * panel.width + i] *= inverse[r];
            const Strides& m = all.mixed_strides;
            write(all.kind, all.mixed + size * (b * m.sequence + h * m.head + t * m.position),
                  mixed + r * panel.width, K);
        }
    }
}

}  // namespace

extern "C" {

// softmax(scale q kᵀ) v
void chainrule_attend(const Attention* attention, int64_t threads) {
    const Attention& all = *attention;
    const long K = all.head_width, room = rounded(all.keys, KEYS), width = rounded(K, KEYS);
    const long rows = all.queries * (all.heads / all.key_value_heads), together = 8L * QUERIES;
    const long pairs = all.sequences * all.key_value_heads;
    // Of short texts a thread takes whole heads of its own: shared among threads, most of their time would be waiting.
    const bool apart = rows < 2 * together * threads && pairs >= 4 * threads;
    static thread_local Memory shared;
    float* common = apart ? nullptr : shared.floats(room * (K + width));
#pragma omp parallel num_threads(threads)
    {
        const int thread = thread_number(), count = thread_count();
        static thread_local Memory memory, own;
        float* floats = apart ? own.floats(room * (K + width)) : common;
        const Panel panel{floats, floats + room * K, width};
        if (apart)
            for (long pair = thread; pair < pairs; pair += count) {
                const long b = pair / all.key_value_heads, g = pair % all.key_value_heads;
                gather(all, b, g, panel, 0, room);
                attend_shared(all, b, g, panel, 0, rows, memory);
            }
        else {
            const Share keys = share(room, thread, count, KEYS);
            for (long pair = 0; pair < pairs; pair++) {
                const long b = pair / all.key_value_heads, g = pair % all.key_value_heads;
                gather(all, b, g, panel, keys.first, keys.last);
                wait();
                // Later queries see more keys, so that the threads take turns.
                for (long first = thread * together; first < rows; first += count * together)
                    attend_shared(all, b, g, panel, first, std::min(first + together, rows), memory);
                wait();
            }
        }
    }
}

// y = norm(x), both (rows, width)
void chainrule_norm(const Norm* norm, int64_t kind, const uint8_t* x, uint8_t* y, int64_t rows, int64_t width,
                    int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        const Share mine = share(rows, thread_number(), thread_count());
        static thread_local Memory memory;
        float* wide = memory.floats(width);
        for (long row = mine.first; row < mine.last; row++) {
            if (kind == 0) {
                normalise(*norm, (const float*)x + row * width, width, (float*)y + row * width);
                continue;
            }
            read(kind, x + 2 * row * width, wide, width);
            normalise(*norm, wide, width, wide);
            write(kind, y + 2 * row * width, wide, width);
        }
    }
}

// y (rows, width) = activation(gate) · up, where x (rows, 2 width) has the gate first
void chainrule_gate(int64_t activation, int64_t kind, const uint8_t* x, uint8_t* y, int64_t rows, int64_t width,
                    int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        const Share mine = share(rows, thread_number(), thread_count());
        const long size = kind == 0 ? 4 : 2;
        static thread_local Memory memory;
        float *gate = memory.floats(2 * width + 16), *up = gate + rounded(width, 16);
        for (long row = mine.first; row < mine.last; row++) {
            read(kind, x + size * row * 2 * width, gate, width);
            read(kind, x + size * (row * 2 + 1) * width, up, width);
            activate(gate, up, width, activation);
            write(kind, y + size * row * width, gate, width);
        }
    }
}

// Turns each pair (x_i, x_{i + R/2}) of x (rows, heads, K) into y; cosines and sines (angles, R), one row of x after another
void chainrule_rotate(int64_t kind, const uint8_t* x, int64_t x_stride, uint8_t* y, const float* cosine,
                      const float* sine, int64_t rows, int64_t angles, int64_t heads, int64_t K, int64_t R,
                      int64_t threads) {
#pragma omp parallel num_threads(threads)
    {
        const Share mine = share(rows, thread_number(), thread_count());
        const long size = kind == 0 ? 4 : 2;
        static thread_local Memory memory;
        float* row = memory.floats(heads * K);
        for (long r = mine.first; r < mine.last; r++) {
            read(kind, x + size * r * x_stride, row, heads * K);
            for (long h = 0; h < heads; h++) rotate(row + h * K, cosine + r % angles * R, sine + r % angles * R, R);
            write(kind, y + size * r * heads * K, row, heads * K);
        }
    }
}

}  // extern "C"
