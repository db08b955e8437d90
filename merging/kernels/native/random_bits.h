/* Counter-based random numbers, the same as `random_numbers` in arithmetic/random_bits.py, which says what they are. */
#include <stdint.h>

static inline int32_t random_number(uint32_t index, uint32_t key, uint32_t second_key) {
    uint32_t x = index ^ key;
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = ((x ^ (x >> 15)) + second_key) * 0x846ca68bu;
    return (int32_t)(x >> 1);
}
