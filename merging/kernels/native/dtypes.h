/* How numbers of the dtype of the merge are read, rounded and written: computed in float, rounded after every step as
 * torch rounds them. FORMAT is 16 for bfloat16, 5 for float16 (the bits of its exponent), 32 for float32. With WIDE,
 * results are written as floats that hold the same numbers. */
#include <math.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t bits(float x) { uint32_t u; memcpy(&u, &x, sizeof u); return u; }
static inline float number(uint32_t u) { float x; memcpy(&x, &u, sizeof x); return x; }

#if FORMAT == 16
typedef uint16_t stored;
static inline uint32_t nearest(float x) { uint32_t u = bits(x); return u + 0x7fffu + ((u >> 16) & 1u); } /* to even */
static inline float load(stored b) { return number((uint32_t)b << 16); }
static inline float round_off(float x) { return number(nearest(x) & 0xffff0000u); }
static inline stored store(float x) { return (stored)(nearest(x) >> 16); }
#elif FORMAT == 5 /* without the processor's own float16, which compilers do not use in loops */
typedef uint16_t stored;
static inline float load(stored b) {
    return number(bits(number((uint32_t)(b & 0x7fffu) << 13) * 0x1p112f) | (uint32_t)(b & 0x8000u) << 16);
}
static inline float round_off(float x) {
    uint32_t u = bits(x), sign = u & 0x80000000u;
    float large = number(((u + 0xfffu + ((u >> 13) & 1u)) & 0x7fffe000u)), small = (fabsf(x) + 0.75f) - 0.75f;
    float rounded = fabsf(x) < 0x1p-14f ? small : large; /* below, numbers are 2^-24 apart */
    return number(bits(rounded < 65536.0f ? rounded : INFINITY) | sign);
}
static inline stored store(float x) {
    uint32_t u = bits(round_off(x)), finite = bits(fabsf(number(u)) * 0x1p-112f) >> 13;
    return (stored)((finite < 0x7c00u ? finite : 0x7c00u) | (u >> 31) << 15);
}
#else
typedef float stored;
static inline float load(stored b) { return b; }
static inline float round_off(float x) { return x; }
#endif

#if FORMAT == 32 || WIDE
typedef float written;
typedef uint32_t width; /* of its bits */
static inline written rounded(float x) { return round_off(x); }
static inline width magnitude(written x) { return bits(x) & 0x7fffffffu; }
#define INFINITE 0x7f800000u
#else
typedef stored written;
typedef uint16_t width;
static inline written rounded(float x) { return store(x); }
static inline width magnitude(written x) { return x & 0x7fffu; }
#define INFINITE (FORMAT == 16 ? 0x7f80u : 0x7c00u)
#endif
