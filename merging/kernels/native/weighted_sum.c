/* One pass over a block of a weighted sum of parents, in float, rounded once: what linear and the spherical methods do.
 * Compiled for PARENTS parents, a FORMAT (dtypes.h), and with WIDE, DIVIDE and FMA (products are added unrounded, as
 * torch's addcmul adds them) 0 or 1. */
#include "dtypes.h"

/* Write the sum of `count` elements. Return whether all of it is finite. */
int merge(const stored *const *given, const float *given_weights, written *restrict out, int64_t count, float divisor) {
    const stored *parents[PARENTS];
    float weights[PARENTS];
    width largest = 0;
    memcpy(parents, given, sizeof parents);
    memcpy(weights, given_weights, sizeof weights);
    for (int64_t i = 0; i < count; i++) {
        float sum = load(parents[0][i]) * weights[0];
        for (int p = 1; p < PARENTS; p++) {
            float parent = load(parents[p][i]);
            sum = FMA ? fmaf(parent, weights[p], sum) : sum + parent * weights[p];
        }
        written merged = rounded(DIVIDE ? sum / divisor : sum);
        out[i] = merged;
        width size = magnitude(merged);
        largest = size > largest ? size : largest;
    }
    return largest < INFINITE;
}
