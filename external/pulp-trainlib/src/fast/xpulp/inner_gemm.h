/* The inner loops of the matrix product, in Xpulpv2: see struct strip. */
#ifndef INNER_GEMM_H
#define INNER_GEMM_H

#include "../fast_gemm.h"
#include "xpulp.h"

/* An array of -1 elements where a field is not where the assembly reads it. */
#define AT(field, offset) (offsetof(struct strip, field) == (offset))
typedef char strip_is_read_right[AT(a, 0) && AT(b, 4) && AT(a_m, 8) && AT(a_next, 12) && AT(b_next, 16) &&
                                         AT(num_k, 20) && AT(first, 24) && AT(c, 40) && AT(c_m, 44) &&
                                         AT(num_blocks, 48) && AT(b_step, 52) && AT(base, 56) &&
                                         AT(act, 60) && AT(scale, 64) && AT(decay, 68)
                                     ? 1
                                     : -1];
#undef AT

typedef char reach_is_memory[PORT_L1_BEHIND >= TCL_GEMM_REACH * (int)sizeof(float) ? 1 : -1];

/* clang-format off */
/* Registers: all 28 that a function may use. Those that 16-bit loads and stores can name hold what is loaded and
   stored most outside of the loop: the code of a block must stay in a core's 512 bytes of instruction cache. */
#define STRIP "a0"
#define A0 "a1"
#define A1 "a2"
#define A2 "a3"
#define A3 "a4"
#define B0 "a5"
#define B1 "s0"
#define PA "s1"
#define PB "t0"
#define C00 "a6"
#define C01 "a7"
#define C02 "t1"
#define C03 "t2"
#define C10 "t3"
#define C11 "t4"
#define C12 "t5"
#define C13 "t6"
#define C20 "s2"
#define C21 "s3"
#define C22 "s4"
#define C23 "s5"
#define C30 "s6"
#define C31 "s7"
#define C32 "s8"
#define C33 "s9"
#define A_M "s10"
#define A_NEXT "s11"
#define B_NEXT "ra"
#define ALL_BUT_A0                                                                                           \
    "memory", "ra", "t0", "t1", "t2", "t3", "t4", "t5", "t6", "a1", "a2", "a3", "a4", "a5", "a6", "a7", "s0",  \
        "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11"

#define FIELD(rd, offset) "lw " rd ", " #offset "(" STRIP ")\n"
#define SET_FIELD(rs, offset) "sw " rs ", " #offset "(" STRIP ")\n"
#define LOAD_A(a) P_LWR(a, PA, A_M)
#define LOAD_LAST_A(a) P_LWR(a, PA, A_NEXT)
#define LOAD_LAST_B(b) P_LWR(b, PB, B_NEXT)
#define FMA(i, j, b) FMADD(C##i##j, A##i, b, C##i##j)

/* One step in k, 24 instructions; A0, B0, A1 are loaded before, and loaded for the next step: behind the last one
   for nothing. No two loads follow each other, so that the FPU, which two cores share, is never idle. */
#define STEP(LOAD_B)                                                                                         \
    FMA(0, 0, B0) LOAD_A(A2) FMA(1, 0, B0) LOAD_LAST_A(A3) FMA(2, 0, B0)    \
    LOAD_B(B1) FMA(3, 0, B0) LOAD_B(B0) FMA(0, 1, B1) FMA(1, 1, B1) FMA(2, 1, B1) FMA(3, 1, B1)              \
    LOAD_LAST_B(B1) FMA(0, 2, B0) FMA(1, 2, B0) FMA(2, 2, B0) FMA(3, 2, B0)                                  \
    FMA(0, 3, B1) LOAD_B(B0) FMA(1, 3, B1) LOAD_A(A0) FMA(2, 3, B1) LOAD_A(A1) FMA(3, 3, B1)

#define MV(rd, rs) "mv " rd ", " rs "\n"
#define ADD(rd, rs) "add " rd ", " rd ", " rs "\n"
#define BEGIN_ROW(i) MV(C##i##0, C##i##3) MV(C##i##1, C##i##3) MV(C##i##2, C##i##3)
#define RELU_ROW(i) P_MAX(C##i##0, C##i##0, "x0") P_MAX(C##i##1, C##i##1, "x0")                              \
    P_MAX(C##i##2, C##i##2, "x0") P_MAX(C##i##3, C##i##3, "x0")
#define CLIP_ROW(i) P_MIN(C##i##0, C##i##0, A0) P_MIN(C##i##1, C##i##1, A0)                                  \
    P_MIN(C##i##2, C##i##2, A0) P_MIN(C##i##3, C##i##3, A0)
#define STORE_ROW(i)                                                                                         \
    "sw " C##i##0 ", 0(" PA ")\nsw " C##i##1 ", 4(" PA ")\n"                                                 \
    "sw " C##i##2 ", 8(" PA ")\nsw " C##i##3 ", 12(" PA ")\n"
/* Of a row of base, which B1 points to: c += A2 * base, and c = base + A2 * c. */
#define LOAD_BASE "lw " A0 ", 0(" B1 ")\nlw " A1 ", 4(" B1 ")\nlw " A3 ", 8(" B1 ")\nlw " PB ", 12(" B1 ")\n"
#define DECAY_ROW(i)                                                                                         \
    LOAD_BASE FMADD(C##i##0, A0, A2, C##i##0) FMADD(C##i##1, A1, A2, C##i##1)                                \
    FMADD(C##i##2, A3, A2, C##i##2) FMADD(C##i##3, PB, A2, C##i##3)
#define ONTO_ROW(i)                                                                                          \
    LOAD_BASE FMADD(C##i##0, C##i##0, A2, A0) FMADD(C##i##1, C##i##1, A2, A1)                                \
    FMADD(C##i##2, C##i##2, A2, A3) FMADD(C##i##3, C##i##3, A2, PB)

/* c = first + sum of a * b, with what follows, for all blocks of the strip. LOAD_B loads one of b's 4 elements
   and steps to the next. */
#define RUN_STRIP(s, LOAD_B)                                                                                 \
    do {                                                                                                     \
        register struct strip *strip __asm__(STRIP) = (s);                                                   \
        __asm__ volatile(                                                                                    \
            ".option push\n.option rvc\n.balign 16\n"                                                         \
            FIELD(A_M, 8) FIELD(A_NEXT, 12) FIELD(B_NEXT, 16)                                                \
            "1:\n"                                                                                           \
            FIELD(C03, 24) FIELD(C13, 28) FIELD(C23, 32) FIELD(C33, 36)                                      \
            FIELD(PA, 0) FIELD(PB, 4) FIELD(A3, 20)                                                          \
            BEGIN_ROW(0) BEGIN_ROW(1) BEGIN_ROW(2) BEGIN_ROW(3)                                              \
            LOAD_A(A0) LOAD_B(B0) LOAD_A(A1) XPULP_BEGIN LP_SETUP(A3, "24") STEP(LOAD_B) XPULP_END                                            \
            FIELD(B1, 56) FIELD(PA, 40) FIELD(B0, 44)                                                        \
            "bnez " B1 ", 5f\n"                                                                              \
            "3:\n"                                                                                           \
            FIELD(A2, 60) FIELD(A1, 52) FIELD(A0, 4)                                                         \
            "bnez " A2 ", 8f\n"                                                                              \
            "4:\n"                                                                                           \
            FIELD(A3, 48)                                                                                    \
            ADD(A0, A1)                                                                                      \
            SET_FIELD(A0, 4)                                                                                 \
            "addi " A1 ", " PA ", 16\n"                                                                      \
            "addi " A3 ", " A3 ", -1\n"                                                                      \
            SET_FIELD(A1, 40) SET_FIELD(A3, 48)                                                              \
            STORE_ROW(0) ADD(PA, B0) STORE_ROW(1) ADD(PA, B0) STORE_ROW(2) ADD(PA, B0) STORE_ROW(3)          \
            "bnez " A3 ", 1b\n"                                                                              \
            "j 6f\n"                                                                                         \
            "5:\n"                                                                                           \
            FIELD(A2, 68)                                                                                    \
            "beqz " A2 ", 7f\n"                                                                              \
            DECAY_ROW(0) ADD(B1, B0) DECAY_ROW(1) ADD(B1, B0) DECAY_ROW(2) ADD(B1, B0) DECAY_ROW(3)          \
            FIELD(B1, 56)                                                                                    \
            "7:\n"                                                                                           \
            "addi " A0 ", " B1 ", 16\n"                                                                      \
            FIELD(A2, 64)                                                                                    \
            SET_FIELD(A0, 56)                                                                                \
            ONTO_ROW(0) ADD(B1, B0) ONTO_ROW(1) ADD(B1, B0) ONTO_ROW(2) ADD(B1, B0) ONTO_ROW(3)              \
            "j 3b\n"                                                                                         \
            "8:\n"                                                                                           \
            RELU_ROW(0) RELU_ROW(1) RELU_ROW(2) RELU_ROW(3)                                                  \
            "addi " A2 ", " A2 ", -1\n"                                                                      \
            "beqz " A2 ", 4b\n"                                                                              \
            MV(B1, A0)                                                                                       \
            "lui " A0 ", %[six]\n"                                                                           \
            CLIP_ROW(0) CLIP_ROW(1) CLIP_ROW(2) CLIP_ROW(3)                                                  \
            MV(A0, B1)                                                                                       \
            "j 4b\n"                                                                                         \
            "6:\n"                                                                                           \
            ".option pop\n"                                                                                  \
            :                                                                                                \
            : "r"(strip), [six] "i"(TCL_SIX_BITS >> 12)                                                      \
            : ALL_BUT_A0);                                                                                   \
    } while (0)

#define LOAD_B_ROW(b) P_LW(b, PB, "4")
#define LOAD_B_ALIKE(b) P_LWR(b, PB, A_M)
/* clang-format on */

/* b's 4 elements are neighbours. */
static void strip_row(struct strip *s)
{
    RUN_STRIP(s, LOAD_B_ROW);
}

/* b's 4 elements are as far apart as a's. */
static void strip_alike(struct strip *s)
{
    RUN_STRIP(s, LOAD_B_ALIKE);
}

/* clang-format off */
#define FMA_4X1(i) FMADD("%[c" #i "]", "%[a" #i "]", "%[b0]", "%[c" #i "]")

/* c[i] = first[i] + sum of a[i] * b: 9 instructions for 4 FMAs. b_next: b's step in k. */
static inline void sum_4x1(struct strip const *s, float c[4])
{
    float const *a = s->a, *b = s->b;
    float t[5];
    c[0] = s->first[0];
    c[1] = s->first[1];
    c[2] = s->first[2];
    c[3] = s->first[3];
    __asm__ volatile(
        XPULP_BEGIN LP_SETUP("%[num]", "9")
        P_LWR("%[b0]", "%[pb]", "%[bn]") P_LWR("%[a0]", "%[pa]", "%[am]")
        P_LWR("%[a1]", "%[pa]", "%[am]") FMA_4X1(0) P_LWR("%[a2]", "%[pa]", "%[am]") FMA_4X1(1)
        P_LWR("%[a3]", "%[pa]", "%[an]") FMA_4X1(2) FMA_4X1(3)
        XPULP_END
        : [c0] "+&r"(c[0]), [c1] "+&r"(c[1]), [c2] "+&r"(c[2]), [c3] "+&r"(c[3]), [pa] "+&r"(a),
          [pb] "+&r"(b), [a0] "=&r"(t[0]), [a1] "=&r"(t[1]), [a2] "=&r"(t[2]), [a3] "=&r"(t[3]),
          [b0] "=&r"(t[4])
        : [num] "r"(s->num_k), [am] "r"(s->a_m), [an] "r"(s->a_next), [bn] "r"(s->b_next)
        : "memory");
}
/* clang-format on */

#endif
