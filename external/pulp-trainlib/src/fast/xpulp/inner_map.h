/* The inner loops of what is done element by element, in Xpulpv2. */
#ifndef INNER_MAP_H
#define INNER_MAP_H

#include <stdint.h>

#include "xpulp.h"

/* dy[i] = 0 unless 0 < y[i] < limit, as integers: y - 1 as unsigned is less than limit - 1. Returns the sum
   of what is left. 8 instructions an element. */
static inline float mask(float const *y, float *dy, int num, uint32_t limit)
{
    float sum = 0.0f;
    uint32_t const most = limit - 1;
    uint32_t inside, bits;
    /* clang-format off */
    if (num > 0)
        __asm__ volatile(
            XPULP_BEGIN LP_SETUP("%[num]", "8")
            P_LW("%[inside]", "%[y]", "4")
            "lw %[bits], 0(%[dy])\n"
            "addi %[inside], %[inside], -1\n"
            "sltu %[inside], %[inside], %[most]\n"
            "sub %[inside], x0, %[inside]\n"
            "and %[bits], %[bits], %[inside]\n"
            P_SW("%[bits]", "%[dy]", "4")
            "fadd.s %[sum], %[sum], %[bits]\n"
            XPULP_END
            : [y] "+&r"(y), [dy] "+&r"(dy), [sum] "+&r"(sum), [inside] "=&r"(inside), [bits] "=&r"(bits)
            : [num] "r"(num), [most] "r"(most)
            : "memory");
    /* clang-format on */
    return sum;
}

/* Adds num_fours times 4 elements of x to the 4 sums. 8 instructions for 4 elements. */
static inline void sum_fours(float const *x, int num_fours, float sums[4])
{
    float s0 = sums[0], s1 = sums[1], s2 = sums[2], s3 = sums[3];
    float x0, x1, x2, x3;
    /* clang-format off */
    if (num_fours > 0)
        __asm__ volatile(
            XPULP_BEGIN LP_SETUP("%[num]", "8")
            P_LW("%[x0]", "%[x]", "4") P_LW("%[x1]", "%[x]", "4")
            "fadd.s %[s0], %[s0], %[x0]\n" P_LW("%[x2]", "%[x]", "4")
            "fadd.s %[s1], %[s1], %[x1]\n" P_LW("%[x3]", "%[x]", "4")
            "fadd.s %[s2], %[s2], %[x2]\n"
            "fadd.s %[s3], %[s3], %[x3]\n"
            XPULP_END
            : [x] "+&r"(x), [s0] "+&r"(s0), [s1] "+&r"(s1), [s2] "+&r"(s2), [s3] "+&r"(s3), [x0] "=&r"(x0),
              [x1] "=&r"(x1), [x2] "=&r"(x2), [x3] "=&r"(x3)
            : [num] "r"(num_fours)
            : "memory");
    /* clang-format on */
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

#endif
