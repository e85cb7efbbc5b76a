/* Matrix product on operands in L1.

   Blocks of 4x4 outputs stay in 16 registers over all of k: 8 loads for 16 FMAs. Two cores share one FPU: 16
   FMAs of each take 32 cycles, in which each core runs its 24 instructions, and the FPU is never idle when no
   two loads follow each other; hence the loads of the next step in k between the FMAs of this one. Bound: 4
   MAC/clk on 8 cores. A block costs about 60 instructions besides; the other core alone can use two thirds of
   the FPU meanwhile, so that about 34 cycles of the 32 k are lost (3.5 MAC/clk for k = 8, 3.9 for 64). What
   4x4 blocks leave over is done in 4x1 blocks, 9 instructions for 4 FMAs (3.5 MAC/clk). */

#include "fast_gemm.h"
#include "inner_gemm.h"
#include "tcl_split.h"

static void store(struct tcl_gemm const *g, float sum, float *c)
{
    *c = combined(sum, g->base ? g->base + (c - g->c) : NULL, g->scale, g->decay, (int)g->act);
}

/* Stores 4 sums at c, `step` elements apart. */
static void store_4(struct tcl_gemm const *g, float const sums[4], float *c, int step)
{
    for (int i = 0; i < 4; i++)
        store(g, sums[i], c + i * step);
}

/* One row m, columns n to stop: blocks of 1x4 are 4x1 blocks of the transposed product. */
static void rest_row(struct tcl_gemm const *g, int m, int n, int stop)
{
    float const first = g->first ? g->first[m] : 0.0f;
    struct strip w = {
        .a_m = 4 * g->b_n,
        .a_next = 4 * (g->b_k - 3 * g->b_n),
        .b_next = 4 * g->a_k,
        .num_k = g->num_k,
        .first = {first, first, first, first},
    };
    w.b = g->a + m * g->a_m;
    for (; n + 4 <= stop; n += 4) {
        float c[4];
        w.a = g->b + n * g->b_n;
        sum_4x1(&w, c);
        store_4(g, c, g->c + m * g->c_m + n, 1);
    }
    for (; n < stop; n++) {
        float sum = first;
        for (int k = 0; k < g->num_k; k++)
            sum += g->a[m * g->a_m + k * g->a_k] * g->b[n * g->b_n + k * g->b_k];
        store(g, sum, g->c + m * g->c_m + n);
    }
}

/* Rows m to m + 4, columns n to stop. */
static void four_rows(struct tcl_gemm const *g, int m, int n, int stop)
{
    struct strip s = {
        .a = g->a + m * g->a_m,
        .b = g->b + n * g->b_n,
        .a_m = 4 * g->a_m,
        .a_next = 4 * (g->a_k - 3 * g->a_m),
        .b_next = 4 * (g->b_k - 3 * g->b_n),
        .num_k = g->num_k,
        .c = g->c + m * g->c_m + n,
        .c_m = 4 * g->c_m,
        .num_blocks = (stop - n) / 4,
        .b_step = 16 * g->b_n,
        .base = g->base ? g->base + m * g->c_m + n : NULL,
        .act = (int)g->act,
        .scale = g->scale,
        .decay = g->decay,
    };
    for (int i = 0; i < 4; i++)
        s.first[i] = g->first ? g->first[m + i] : 0.0f;
    int const is_near = g->a_k <= TCL_GEMM_REACH && g->b_k <= TCL_GEMM_REACH;
    int const blocks = is_near && s.num_blocks > 0 && (g->b_n == 1 || g->b_n == g->a_m);
    if (blocks) {
        n += 4 * s.num_blocks;
        if (g->b_n == 1)
            strip_row(&s);
        else
            strip_alike(&s);
    }
    s.b_next = 4 * g->b_k;
    for (; n < stop; n++) {
        float c[4];
        s.b = g->b + n * g->b_n;
        sum_4x1(&s, c);
        store_4(g, c, g->c + m * g->c_m + n, g->c_m);
    }
}

/* Cores share the columns of all blocks of 4 rows, one column of 4 rows being one unit. */
void tcl_fast_gemm_fp32(struct tcl_gemm const *g)
{
    int const num_n = g->num_n;
    int start, stop;
    TCL_CHECK(g->a && g->b && g->c && g->num_m > 0 && num_n > 0 && g->num_k > 0 && g->c_m >= num_n);
    tcl_split((g->num_m + 3) / 4 * num_n, &start, &stop);
    int m = start / num_n * 4, n = start % num_n;
    for (int left = stop - start; left > 0; m += 4, n = 0) {
        int const n_stop = num_n - n < left ? num_n : n + left;
        left -= n_stop - n;
        if (m + 4 <= g->num_m)
            four_rows(g, m, n, n_stop);
        else
            for (int i = m; i < g->num_m; i++)
                rest_row(g, i, n, n_stop);
    }
}
