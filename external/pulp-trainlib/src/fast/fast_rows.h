/* Loops over the rows of 3x3 windows, for the kernels of tiles in L1.

   The loops in assembly walk along the columns of three rows (two of outputs in the input gradient at stride
   2). Every column that is loaded is used for all results that it meets, whose sums stay in registers: 9 FMAs
   for 3 loads, at stride 2 for 6. FMAs alternate with the rest, of which there is no more than FMAs: two
   cores share one FPU, so that 1 cycle per MAC of a pair of cores (4 MAC/clk on 8) is the bound. First and
   last columns are outside the loops: nothing is multiplied with padding there, and a row costs 4 to 24
   cycles besides its FMAs. A row that lies outside is one zero, read again and again. */

#ifndef FAST_ROWS_H
#define FAST_ROWS_H

#include <stddef.h>
#include <stdint.h>

#include "tcl_fast_dw_fp32.h"
#include "tcl_window.h"

/* What every result is: at least lo, at most hi, as integers; that is ReLU, and with the extremes nothing. */
struct range {
    int32_t lo, hi;
};

static inline struct range range_of(enum tcl_act act)
{
    return (struct range){act == TCL_ACT_NONE ? INT32_MIN : 0,
                          act == TCL_ACT_RELU6 ? TCL_SIX_BITS : INT32_MAX};
}

static inline struct tcl_window window_3x3(struct tcl_dw_tile const *t)
{
    return (struct tcl_window){
        .H = t->H,
        .W = t->W,
        .Ho = t->Ho,
        .Wo = t->Wo,
        .kh = 3,
        .kw = 3,
        .stride_h = t->stride,
        .stride_w = t->stride,
        .pad_top = t->pad_top,
        .pad_left = t->pad_left,
    };
}

/* The contract of a tile whose num_results rows of results are shared by the cores; the other plane may be
 * empty. */
static inline void check_tile(struct tcl_dw_tile const *t, int num_results)
{
    TCL_CHECK(num_results > 0 && t->H >= 0 && t->Ho >= 0 && t->W > 0 && t->Wo > 0);
    TCL_CHECK(t->stride == 1 || t->stride == 2);
    TCL_CHECK(t->x_stride >= t->H * t->W && t->y_stride >= t->Ho * t->Wo);
    (void)t, (void)num_results;
}

static inline float limited(float number, struct range range)
{
    union {
        float number;
        int32_t bits;
    } x = {number};
    x.bits = x.bits > range.lo ? x.bits : range.lo;
    x.bits = x.bits < range.hi ? x.bits : range.hi;
    return x.number;
}

#ifdef TCL_XPULP

/* Rows of results that are walked alike, as the assembly reads them: GROUP knows where the fields are. The
   rows that meet the first, where an outer one that is outside is a zero; bytes from a column to the next, 0
   there; how many rows of results, 0 behind the last group. */
struct group {
    float const *row[3];
    int first_step, last_step;
    int num;
};

/* An array of -1 elements where a field is not where GROUP reads it. */
typedef char group_is_read_right[offsetof(struct group, row) == 0 &&
                                         offsetof(struct group, first_step) == 12 &&
                                         offsetof(struct group, last_step) == 16 &&
                                         offsetof(struct group, num) == 20 && sizeof(struct group) == 24
                                     ? 1
                                     : -1];

/* A first row, inner rows, a last row, and the end. */
enum { MOST_GROUPS = 4 };

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

/* The input gradient at stride 1: the weights turned round. */
static inline void correlate_turned(struct group const *g, float const w[9], float *dx, int width)
{
    float const turned[9] = {w[8], w[7], w[6], w[5], w[4], w[3], w[2], w[1], w[0]};
    correlate(g, turned, 0.0f, (struct range){INT32_MIN, INT32_MAX}, dx, width);
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

#ifdef TCL_XPULP_WIDE
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
#endif

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

/* The rows of results, first to stop, whose three rows are all inside. */
struct inner {
    int first, stop;
};

static inline struct inner inner_rows(int stride, int pad_top, int num_rows, int num_results)
{
    int const first = tcl_max(0, tcl_ceil_div(pad_top, stride));
    int const stop = tcl_min(num_results, tcl_floor_div(num_rows - 3 + pad_top, stride) + 1);
    return (struct inner){first, stop};
}

/* The groups of rows of results at to stop of one plane of num_rows rows; row `at` meets rows `from` to from
   + reach. */
static inline void make_groups(struct group groups[MOST_GROUPS], struct inner inner, int at, int stop,
                               float const *plane, int from, int reach, int stride, int num_rows, int width,
                               float const *zero)
{
    for (struct group *g = groups;; g++) {
        int const is_inner = at >= inner.first && at < inner.stop;
        g->num = at >= stop ? 0 : is_inner ? tcl_min(stop, inner.stop) - at : 1;
        if (g->num == 0)
            return;
        int const offset = from * width; /* of row[0], which may lie outside */
        g->first_step = from >= 0 ? (int)sizeof(float) : 0;
        g->last_step = from + reach < num_rows ? (int)sizeof(float) : 0;
        g->row[0] = g->first_step ? plane + offset : zero;
        g->row[1] = plane + (offset + width);
        g->row[2] = g->last_step ? plane + (offset + reach * width) : zero;
        at += g->num;
        from += g->num * stride;
    }
}

/* The same rows of another plane, `distance` elements from the last. */
static inline void move_groups(struct group groups[MOST_GROUPS], int distance)
{
    for (struct group *g = groups; g->num > 0; g++) {
        g->row[0] += g->first_step ? distance : 0;
        g->row[1] += distance;
        g->row[2] += g->last_step ? distance : 0;
    }
}

/* Padding 1 all round, with even widths at stride 2, and the middle one of the three rows of every result
 * inside.
 */
static inline int is_usual(struct tcl_dw_tile const *t, int stride, int pad_top, int num_rows,
                           int num_results)
{
    if (t->pad_left != 1 || t->W < 2 || pad_top > 1 || (num_results - 1) * stride - pad_top + 1 >= num_rows)
        return 0;
    return t->stride == 1 ? t->Wo == t->W : t->stride == 2 && t->W == 2 * t->Wo;
}

#endif

#ifdef TCL_XPULP

/* What is decided once for all channels of a call. */
struct plan {
    int usual; /* the loops in assembly do it; else all that follows is not set */
    struct inner inner;
    int from, reach,
        stride; /* result 0 meets rows `from` to from + reach, the next result `stride` further */
    int num_rows, width, distance; /* of the planes that are read; elements from plane to plane */
    float zero;                    /* what is outside; on the stack, which is in L1 */
    int at, stop;                  /* the results that the groups are made for */
    struct group groups[MOST_GROUPS];
};

static inline void plan_walk(struct plan *plan, struct tcl_dw_tile const *t, int stride, int pad_top,
                             int num_results, int reads_y)
{
    plan->num_rows = reads_y ? t->Ho : t->H;
    plan->width = reads_y ? t->Wo : t->W;
    plan->distance = reads_y ? t->y_stride : t->x_stride;
    plan->from = -pad_top;
    plan->reach = 2;
    plan->stride = stride;
    plan->zero = 0.0f;
    plan->at = plan->stop = -1;
    plan->usual = is_usual(t, stride, pad_top, plan->num_rows, num_results);
    plan->inner = inner_rows(stride, pad_top, plan->num_rows, num_results);
}

/* Makes the groups for results at to stop of plane c of `planes`; the plane before has been the last. */
static inline void enter_plane(struct plan *plan, float const *planes, int c, int at, int stop)
{
    if (plan->at == at && plan->stop == stop) {
        move_groups(plan->groups, plan->distance);
        return;
    }
    plan->at = at;
    plan->stop = stop;
    make_groups(plan->groups, plan->inner, at, stop, planes + c * plan->distance,
                plan->from + at * plan->stride, plan->reach, plan->stride, plan->num_rows, plan->width,
                &plan->zero);
}

#else

/* Plain C needs no plan. */
struct plan {
    int usual;
};

static inline void plan_walk(struct plan *plan, struct tcl_dw_tile const *t, int stride, int pad_top,
                             int num_results, int reads_y)
{
    plan->usual = 0;
    (void)t, (void)stride, (void)pad_top, (void)num_results, (void)reads_y;
}

#endif

#endif
