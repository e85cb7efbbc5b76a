/* The inner loops over rows of 3x3 windows, in Xpulpv2: see struct group. */
#ifndef INNER_ROWS_H
#define INNER_ROWS_H

#include <stddef.h>

#include "../fast_group.h"
#include "xpulp.h"

/* An array of -1 elements where a field is not where GROUP reads it. */
typedef char group_is_read_right[offsetof(struct group, row) == 0 &&
                                         offsetof(struct group, first_step) == 12 &&
                                         offsetof(struct group, last_step) == 16 &&
                                         offsetof(struct group, num) == 20 && sizeof(struct group) == 24
                                     ? 1
                                     : -1];

/* clang-format off */
#define L0 P_LWR("%[x0]", "%[f0]", "%[step0]")
#define L1 P_LW("%[x1]", "%[f1]", "4")
#define L2 P_LWR("%[x2]", "%[f2]", "%[step2]")
#define MAC(to, x, w, sum) FMADD("%[" to "]", "%[" x "]", "%[" w "]", "%[" sum "]")
#define LIMIT_LOW(x) P_MAX("%[" x "]", "%[" x "]", "%[lo]")
#define LIMIT_HIGH(x) P_MIN("%[" x "]", "%[" x "]", "%[hi]")
#define PUT(x) P_SW("%[" x "]", "%[y]", "4")
#define SKIP_ROW(pointer) "add %[" pointer "], %[" pointer "], %[skip]\n"
#define FIELD(rd, offset) "lw %[" rd "], " #offset "(%[g])\n"
#define GROUP                                                                                                \
    "0:\n" FIELD("num", 20) FIELD("f0", 0) "beqz %[num], 3f\n" FIELD("f1", 4) FIELD("f2", 8)                 \
    FIELD("step0", 12) FIELD("step2", 16) "addi %[g], %[g], 24\n"
#define NEXT_ROW "addi %[num], %[num], -1\nbnez %[num], 1b\nj 0b\n3:\n"
#define WEIGHTS(w)                                                                                           \
    [w00] "r"((w)[0]), [w01] "r"((w)[1]), [w02] "r"((w)[2]), [w10] "r"((w)[3]), [w11] "r"((w)[4]),           \
        [w12] "r"((w)[5]), [w20] "r"((w)[6]), [w21] "r"((w)[7]), [w22] "r"((w)[8])
#define COLUMN [x0] "=&r"(x[0]), [x1] "=&r"(x[1]), [x2] "=&r"(x[2])
#define FROM                                                                                                 \
    [g] "+&r"(g), [f0] "=&r"(f[0]), [f1] "=&r"(f[1]), [f2] "=&r"(f[2]), [step0] "=&r"(step[0]),              \
        [step2] "=&r"(step[1]), [num] "=&r"(num)

/* Stride 1, padding 1: `num` rows of y, the same width. Per column 16 instructions, 9 of them FMAs; per row 29
   besides, 12 of them FMAs, for the first and the last column. */
static inline void correlate(struct group const *g, float const w[9], float b, struct range range, float *y, int width)
{
    float const *f[3];
    int step[2], num;
    float x[3], p, q, t; /* p, q: sums of this and the next result */
    __asm__ volatile(
        XPULP_BEGIN
        GROUP "1:\n"
        L0 L1 MAC("p", "x0", "w01", "b") L2 MAC("q", "x0", "w00", "b") L0 MAC("p", "x1", "w11", "p")
        MAC("q", "x1", "w10", "q") L1 MAC("p", "x2", "w21", "p") MAC("q", "x2", "w20", "q") L2
        "beqz %[middle], 2f\n"
        LP_SETUP("%[middle]", "16")
        MAC("p", "x0", "w02", "p") MAC("p", "x1", "w12", "p") MAC("p", "x2", "w22", "p") LIMIT_LOW("p")
        MAC("t", "x0", "w01", "q") LIMIT_HIGH("p") MAC("q", "x0", "w00", "b") L0 MAC("t", "x1", "w11", "t") PUT("p")
        MAC("q", "x1", "w10", "q") L1 MAC("t", "x2", "w21", "t") "mv %[p], %[t]\n" MAC("q", "x2", "w20", "q") L2
        "2:\n"
        MAC("p", "x0", "w02", "p") MAC("p", "x1", "w12", "p") MAC("p", "x2", "w22", "p") LIMIT_LOW("p")
        MAC("q", "x0", "w01", "q") LIMIT_HIGH("p") MAC("q", "x1", "w11", "q") PUT("p") MAC("q", "x2", "w21", "q")
        LIMIT_LOW("q") LIMIT_HIGH("q") PUT("q")
        NEXT_ROW
        XPULP_END
        : COLUMN, FROM, [p] "=&r"(p), [q] "=&r"(q), [t] "=&r"(t), [y] "+&r"(y) 
        : WEIGHTS(w), [b] "r"(b), [lo] "r"(range.lo), [hi] "r"(range.hi), [middle] "r"(width - 2)
        : "memory");
}

/* START, NEXT: what this and the next result begin with; num: instructions of the loop. */
#define CORRELATE_2(START, NEXT, num_loop)                                                                   \
    __asm__ volatile(                                                                                        \
        XPULP_BEGIN                                                                                          \
        GROUP "1:\n"                                                                                         \
        L0 L1 L2 START                                                                                       \
        "beqz %[middle], 2f\n"                                                                               \
        LP_SETUP("%[middle]", num_loop)                                                                      \
        MAC("p", "x0", "w01", "p") L0 MAC("p", "x1", "w11", "p") L1 MAC("p", "x2", "w21", "p") L2            \
        MAC("p", "x0", "w02", "p") NEXT MAC("p", "x1", "w12", "p") MAC("p", "x2", "w22", "p") LIMIT_LOW("p")  \
        MAC("q", "x0", "w00", "b") L0 LIMIT_HIGH("p") MAC("q", "x1", "w10", "q") L1 PUT("p")                 \
        MAC("q", "x2", "w20", "q") L2 "mv %[p], %[q]\n"                                                      \
        "2:\n"                                                                                               \
        MAC("p", "x0", "w01", "p") L0 MAC("p", "x1", "w11", "p") L1 MAC("p", "x2", "w21", "p") L2            \
        MAC("p", "x0", "w02", "p") SKIP_ROW("f0") MAC("p", "x1", "w12", "p") SKIP_ROW("f1")                  \
        MAC("p", "x2", "w22", "p") SKIP_ROW("f2") LIMIT_LOW("p") LIMIT_HIGH("p") PUT("p")                    \
        NEXT_ROW                                                                                             \
        XPULP_END                                                                                            \
        : COLUMN, FROM, [p] "=&r"(p), [q] "=&r"(q), [y] "+&r"(y), [b] "+&r"(b)                               \
        : WEIGHTS(w), [lo] "r"(range.lo), [hi] "r"(range.hi), [middle] "r"(width / 2 - 1),                   \
          [skip] "r"(4 * width)                                                                              \
        : "memory")

/* Stride 2, padding 1, even width: rows of y, half as wide. Per result 19 instructions, 9 of them FMAs; per row
   24 besides, 6 of them FMAs. */
static inline void correlate_2(struct group const *g, float const w[9], float b, struct range range, float *y,
                               int width)
{
    float const *f[3];
    int step[2], num;
    float x[3], p, q;
    CORRELATE_2("mv %[p], %[b]\n", "", "19");
}

/* The same added to y: one instruction more. */
static inline void correlate_2_more(struct group const *g, float const w[9], struct range range, float *y, int width)
{
    float const *f[3];
    int step[2], num;
    float x[3], p, q, b = 0.0f;
    CORRELATE_2("lw %[p], 0(%[y])\n", "lw %[b], 4(%[y])\n", "20");
}

#define MUL(to, x, w) FMUL("%[" to "]", "%[" x "]", "%[" w "]")
#define SPREAD_OUT                                                                                           \
    MUL("u", "x0", "w11") MAC("s", "x0", "w10", "s") P_SW("%[s]", "%[y0]", "4") MUL("v", "x0", "w21")        \
    P_SW("%[u]", "%[y0]", "4") MAC("v", "x2", "w01", "v") MAC("t", "x0", "w20", "t") "sw %[v], 4(%[y1])\n"    \
    MAC("t", "x2", "w00", "t") MUL("s", "x0", "w12") P_SW("%[t]", "%[y1]", "8") MUL("t", "x0", "w22")

/* Stride 2, padding 1, transposed: pairs of rows of dx, which a row of dy and the next one meet (rows 0 and 2 of
   the group); dy has half of the columns of dx, 2 or more. Per column of dy 15 instructions, 9 of them FMAs, for
   4 results; per pair 20 besides, 6 of them FMAs. */
static inline void spread(struct group const *g, float const w[9], float *dx, int width)
{
    float const *f[3];
    int step[2], num;
    float x[2], s, t, u, v; /* s, t: sums of the next result of the upper and the lower row */
    float *lower = dx + width;
    __asm__ volatile(
        XPULP_BEGIN
        GROUP "1:\n"
        L0 L2 MUL("s", "x0", "w11") MUL("t", "x0", "w21") P_SW("%[s]", "%[y0]", "4") MAC("t", "x2", "w01", "t")
        MUL("s", "x0", "w12") P_SW("%[t]", "%[y1]", "4") MUL("t", "x0", "w22") L0 MAC("t", "x2", "w02", "t") L2
        "beqz %[middle], 2f\n"
        LP_SETUP("%[middle]", "15")
        SPREAD_OUT L0 MAC("t", "x2", "w02", "t") L2
        "2:\n"
        SPREAD_OUT MAC("t", "x2", "w02", "t")
        P_SW("%[s]", "%[y0]", "4") P_SW("%[t]", "%[y1]", "4") SKIP_ROW("y0") SKIP_ROW("y1")
        NEXT_ROW
        XPULP_END
        : FROM, [x0] "=&r"(x[0]), [x2] "=&r"(x[1]), [s] "=&r"(s), [t] "=&r"(t), [u] "=&r"(u), [v] "=&r"(v),
          [y0] "+&r"(dx), [y1] "+&r"(lower)
        : WEIGHTS(w), [middle] "r"(width / 2 - 2), [skip] "r"(4 * width)
        : "memory");
}
/* clang-format on */

#endif
