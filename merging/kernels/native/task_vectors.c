/* One pass over a block of a task-vector merge: sparsify each delta, weigh it, elect a sign, sum, normalize, add the
 * base. The same steps, each rounded as merging/methods/task_vectors.py rounds it, so that both give the same bits.
 *
 * Compiled for PARENTS parents, a FORMAT (dtypes.h) and a KIND, and with WIDE, SCALED, ELECT, NORMALIZE and LAMBDA
 * each 0 or 1. */
#include "dtypes.h"
#include "random_bits.h"

#define TOP_K 0       /* keep magnitudes above a floor */
#define BAND 1        /* ... and not above a ceiling */
#define RANDOM 2      /* keep where a random number is below a limit */
#define RANKED 3      /* ... that depends on the element's rank, an int16 */
#define RANKED_WIDE 4 /* ... an int32 */

#if KIND == RANKED_WIDE
typedef int32_t rank;
#else
typedef int16_t rank;
#endif

struct edge { /* a magnitude: `before` up to the index `until` of the block, `after` from there on */
    int64_t until;
    float before, after;
};

struct contribution {
    const stored *parent;
    const rank *ranks;
    struct edge floor, ceiling;
    float slope, intercept; /* of the limit, by rank */
    uint32_t key, second_key;
    int32_t last; /* largest random number that is kept; signed: one instruction compares those before AVX-512 */
    float scale, weight;
};

static inline float sparsified(const struct contribution *own, float delta, int64_t first, int64_t i, float floor,
                               float ceiling) {
#if KIND == TOP_K || KIND == BAND
    (void)own, (void)first, (void)i;
    float kept = fabsf(delta) > floor ? delta : 0.0f;
    return KIND == BAND ? (fabsf(delta) <= ceiling ? kept : 0.0f) : kept;
#else
    (void)floor, (void)ceiling;
    int32_t number = random_number((uint32_t)(first + i), own->key, own->second_key);
#if KIND == RANDOM
    return number <= own->last ? delta : 0.0f;
#else
    return (uint32_t)number < (uint32_t)((float)own->ranks[i] * own->slope + own->intercept) ? delta : 0.0f;
#endif
#endif
}

static float edge_at(const struct edge *edge, int64_t start, int64_t *end) {
    if (start >= edge->until) return edge->after;
    if (edge->until < *end) *end = edge->until;
    return edge->before;
}

/* Return the divisor of the sum of the deltas that agree: the sum of their weights, `both` if two parents agree. */
static inline float agreeing_weight(const int *agrees, const struct contribution *parts, float both) {
#if PARENTS == 2
    float first = agrees[1] ? both : parts[0].weight, second = agrees[1] ? parts[1].weight : 1.0f;
    return agrees[0] ? first : second;
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
int merge(const stored *restrict base, const struct contribution *given, written *restrict out, int64_t first, int64_t count,
          float divisor, float lambda) {
    struct contribution parts[PARENTS];
    float floors[PARENTS], ceilings[PARENTS];
    width largest = 0;
    memcpy(parts, given, sizeof parts);
    for (int64_t start = 0, end; start < count; start = end) {
        end = count; /* of the run in which no edge changes */
        for (int p = 0; p < PARENTS; p++) {
            floors[p] = edge_at(&parts[p].floor, start, &end);
            ceilings[p] = edge_at(&parts[p].ceiling, start, &end);
        }
        for (int64_t i = start; i < end; i++) {
            float b = load(base[i]), deltas[PARENTS], total = 0, sum = 0;
            for (int p = 0; p < PARENTS; p++) {
                float delta = round_off(load(parts[p].parent[i]) - b);
                delta = sparsified(&parts[p], delta, first, i, floors[p], ceilings[p]);
                if (SCALED) delta = round_off(delta * parts[p].scale);
                deltas[p] = round_off(delta * parts[p].weight);
                total = p ? total + deltas[p] : deltas[p];
            }
#if ELECT
            uint32_t sign = bits(total) & 0x80000000u;
            int agrees[PARENTS];
            for (int p = 0; p < PARENTS; p++) {
                float agreeing = number(bits(deltas[p]) ^ sign);
                agrees[p] = agreeing > 0;
                sum += agreeing > 0 ? agreeing : 0.0f;
            }
            sum = round_off(sum);
            if (NORMALIZE) sum = round_off(sum / agreeing_weight(agrees, parts, divisor));
            sum = number(bits(sum) ^ sign);
#else
            total = round_off(total);
            sum = NORMALIZE ? round_off(total / divisor) : total;
#endif
            if (LAMBDA) sum = round_off(sum * lambda);
            written merged = rounded(sum + b);
            out[i] = merged;
            width size = magnitude(merged);
            largest = size > largest ? size : largest;
        }
    }
    return largest < INFINITE;
}

/* Return the sum of |x| over a block of one sparsified, unscaled delta. */
double absolute_sum(const stored *restrict base, const struct contribution *given, int64_t first, int64_t count) {
    enum { LANES = 16 };
    struct contribution own = *given;
    double sums[LANES] = {0}, sum = 0;
    for (int64_t start = 0, end; start < count; start = end) {
        end = count;
        float floor = edge_at(&own.floor, start, &end), ceiling = edge_at(&own.ceiling, start, &end);
        for (int64_t from = start; from < end; from += LANES) {
            int lanes = end - from < LANES ? (int)(end - from) : LANES;
            for (int lane = 0; lane < lanes; lane++) {
                float delta = round_off(load(own.parent[from + lane]) - load(base[from + lane]));
                sums[lane] += fabsf(sparsified(&own, delta, first, from + lane, floor, ceiling));
            }
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
