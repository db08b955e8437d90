/* One pass over a block of a task-vector merge: thin each delta, weigh it, elect a sign, sum, normalize, add the base.
 * The same steps, each rounded as merging/methods/task_vectors.py rounds it, so that both give the same bits.
 *
 * Compiled for PARENTS parents, a FORMAT (numbers.h), and with DROP (a random mask; else a cut by magnitude), SCALED,
 * ELECT, NORMALIZE and LAMBDA each 0 or 1. */
#include "numbers.h"

struct part {
    const stored *parent;
    int64_t equal_until;  /* CUT: index from which on elements that equal the threshold go */
    float before, after;  /* CUT: magnitudes above this are kept, before and after that index */
    uint32_t key, second_key, limit; /* DROP: elements whose number is below the limit are kept */
    float scale, weight;
};

static inline uint32_t mixed_bits(uint32_t x) { /* Wellons' lowbias32, as in methods/random_bits.py */
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

static inline float thinned(struct part part, float delta, uint32_t index, float threshold) {
#if DROP
    delta = mixed_bits(mixed_bits(index ^ part.key) + part.second_key) >> 1 < part.limit ? delta : 0.0f;
#else
    delta = fabsf(delta) > threshold ? delta : 0.0f;
#endif
    return SCALED ? round_off(delta * part.scale) : delta;
}

/* Return the end of the run from `start` on in which no threshold changes, and the thresholds in it. */
static int64_t constant_run(const struct part *parts, int64_t start, int64_t end, float *thresholds) {
    for (int p = 0; p < PARENTS; p++) {
        int past = start >= parts[p].equal_until;
        thresholds[p] = past ? parts[p].after : parts[p].before;
        if (!past && parts[p].equal_until < end) end = parts[p].equal_until;
    }
    return end;
}

/* Return what the sum of the deltas that agree is divided by: the sum of their weights. Of two, it is `both`. */
static inline float agreeing_weight(const int *agrees, const struct part *parts, float both) {
#if PARENTS == 2
    float second = agrees[1] ? parts[1].weight : 1.0f;
    return agrees[0] ? agrees[1] ? both : parts[0].weight : second;
#else
    float weights = 0;
    (void)both;
    for (int p = 0; p < PARENTS; p++) weights += agrees[p] ? parts[p].weight : 0.0f;
    weights = round_off(weights);
    return weights == 0 ? 1.0f : weights;
#endif
}

/* Write the merge of `count` elements, the first of which has flat index `first` in its tensor. Return whether all of
 * it is finite. `divisor` is the sum of all weights, which normalizing divides by where no parent is outvoted. */
int merge(const stored *restrict base, const struct part *given, stored *restrict out, int64_t first, int64_t count,
          float divisor, float lambda) {
    struct part parts[PARENTS];
    float thresholds[PARENTS];
    uint32_t largest = 0;
    memcpy(parts, given, sizeof parts);
    for (int64_t start = 0, end; start < count; start = end) {
        end = constant_run(parts, start, count, thresholds);
        for (int64_t i = start; i < end; i++) {
            float b = load(base[i]), deltas[PARENTS], total = 0, sum = 0;
            for (int p = 0; p < PARENTS; p++) {
                float delta = round_off(load(parts[p].parent[i]) - b);
                deltas[p] = round_off(thinned(parts[p], delta, (uint32_t)(first + i), thresholds[p]) * parts[p].weight);
                total = p ? total + deltas[p] : deltas[p];
            }
#if ELECT
            uint32_t sign = bits(total) & 0x80000000u;
            int agrees[PARENTS];
            for (int p = 0; p < PARENTS; p++) {
                float agreeing = number(bits(deltas[p]) ^ sign);
                agrees[p] = agreeing > 0;
                sum += agrees[p] ? agreeing : 0.0f;
            }
            sum = round_off(sum);
            if (NORMALIZE) sum = round_off(sum / agreeing_weight(agrees, parts, divisor));
            sum = number(bits(sum) ^ sign);
#else
            total = round_off(total);
            sum = NORMALIZE ? round_off(total / divisor) : total;
#endif
            if (LAMBDA) sum = round_off(sum * lambda);
            stored merged = store(sum + b);
            out[i] = merged;
            largest = magnitude(merged) > largest ? magnitude(merged) : largest;
        }
    }
    return largest < INFINITE;
}

/* Return the sum of |x| over a block of the thinned, unscaled delta of one part. */
double absolute_sum(const stored *restrict base, const struct part *given, int64_t first, int64_t count) {
    enum { LANES = 16 };
    struct part part = *given;
    double sums[LANES] = {0}, sum = 0;
    for (int64_t start = 0; start < count; start += LANES) {
        int lanes = count - start < LANES ? (int)(count - start) : LANES;
        for (int lane = 0; lane < lanes; lane++) {
            int64_t i = start + lane;
            float delta = round_off(load(part.parent[i]) - load(base[i]));
            sums[lane] += fabsf(thinned(part, delta, (uint32_t)(first + i), i < part.equal_until ? part.before : part.after));
        }
    }
    for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
    return sum;
}

/* Return the index of the `rank`-th element (from 1) whose delta has this magnitude, or -1. */
int64_t nth_equal(const stored *restrict base, const stored *restrict parent, int64_t count, float magnitude,
                  int64_t rank) {
    enum { STEP = 512 };
    for (int64_t start = 0; start < count; start += STEP) {
        int64_t end = start + STEP < count ? start + STEP : count;
        int32_t found = 0;
        for (int64_t i = start; i < end; i++)
            found += fabsf(round_off(load(parent[i]) - load(base[i]))) == magnitude;
        if (found < rank) {
            rank -= found;
            continue;
        }
        for (int64_t i = start; i < end; i++)
            if (fabsf(round_off(load(parent[i]) - load(base[i]))) == magnitude && --rank == 0) return i;
    }
    return -1;
}
