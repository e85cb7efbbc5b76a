/* The inner loops of the weight gradient of 3x3 windows, in Xpulpv2. Assembly may have more operands here
   than the 30 that GCC takes. */
#ifndef INNER_WEIGH_H
#define INNER_WEIGH_H

#include "../xpulp/inner_rows.h"

/* clang-format off */
#define SUMS(s)                                                                                              \
    [s00] "+&r"((s)[0]), [s01] "+&r"((s)[1]), [s02] "+&r"((s)[2]), [s10] "+&r"((s)[3]), [s11] "+&r"((s)[4]),  \
        [s12] "+&r"((s)[5]), [s20] "+&r"((s)[6]), [s21] "+&r"((s)[7]), [s22] "+&r"((s)[8])
#define ADD(i, kx, d) FMADD("%[s" #i #kx "]", "%[x" #i "]", "%[" d "]", "%[s" #i #kx "]")
#define LD(d) P_LW("%[" d "]", "%[fd]", "4")

/* Stride 1, padding 1: the sums of the 9 weights over `num` rows. Per column 15 instructions, 9 of them FMAs;
   per row 25 besides, 12 of them FMAs. */
static inline void weigh(struct group const *g, float const *dy, float sums[9], int width)
{
    float s[9] = {0.0f};
    float const *f[3];
    int step[2], num;
    float x[3], d0, d1, d2; /* the outputs that meet the column with kx = 2, 1, 0 */
    __asm__ volatile(
        XPULP_BEGIN
        GROUP "1:\n"
        L0 LD("d0") L1 ADD(0, 1, "d0") LD("d1") ADD(1, 1, "d0") L2 ADD(0, 0, "d1") L0
        ADD(1, 0, "d1") L1 ADD(2, 1, "d0") ADD(2, 0, "d1") L2
        "beqz %[middle], 2f\n"
        LP_SETUP("%[middle]", "15")
        ADD(0, 2, "d0") ADD(0, 1, "d1") LD("d2") ADD(1, 2, "d0") ADD(1, 1, "d1") ADD(0, 0, "d2") L0
        ADD(2, 2, "d0") "mv %[d0], %[d1]\n" ADD(1, 0, "d2") L1 ADD(2, 1, "d1") "mv %[d1], %[d2]\n"
        ADD(2, 0, "d2") L2
        "2:\n"
        ADD(0, 2, "d0") ADD(1, 2, "d0") ADD(2, 2, "d0") ADD(0, 1, "d1") ADD(1, 1, "d1") ADD(2, 1, "d1")
        NEXT_ROW
        XPULP_END
        : SUMS(s), COLUMN, FROM, [d0] "=&r"(d0), [d1] "=&r"(d1), [d2] "=&r"(d2), [fd] "+&r"(dy) 
        : [middle] "r"(width - 2)
        : "memory");
    for (int i = 0; i < 9; i++)
        sums[i] = s[i];
}

/* Stride 2, padding 1, even width: the sums of the 9 weights over `num` rows of outputs. Per output 17 instructions, 9 of them
   FMAs; per row 20 besides, 6 of them FMAs. */
static inline void weigh_2(struct group const *g, float const *dy, float sums[9], int width)
{
    float s[9] = {0.0f};
    float const *f[3];
    int step[2], num;
    float x[3], d0, d1;
    __asm__ volatile(
        XPULP_BEGIN
        GROUP "1:\n"
        LD("d0") L0 L1 L2
        "beqz %[middle], 2f\n"
        LP_SETUP("%[middle]", "17")
        ADD(0, 1, "d0") L0 ADD(1, 1, "d0") L1 ADD(2, 1, "d0") L2 ADD(0, 2, "d0") LD("d1") ADD(1, 2, "d0")
        ADD(2, 2, "d0") "mv %[d0], %[d1]\n" ADD(0, 0, "d1") L0 ADD(1, 0, "d1") L1 ADD(2, 0, "d1") L2
        "2:\n"
        ADD(0, 1, "d0") L0 ADD(1, 1, "d0") L1 ADD(2, 1, "d0") L2 ADD(0, 2, "d0") SKIP_ROW("f0")
        ADD(1, 2, "d0") SKIP_ROW("f1") ADD(2, 2, "d0") SKIP_ROW("f2")
        NEXT_ROW
        XPULP_END
        : SUMS(s), COLUMN, FROM, [d0] "=&r"(d0), [d1] "=&r"(d1), [fd] "+&r"(dy) 
        : [middle] "r"(width / 2 - 1), [skip] "r"(4 * width)
        : "memory");
    for (int i = 0; i < 9; i++)
        sums[i] = s[i];
}
/* clang-format on */

#endif
