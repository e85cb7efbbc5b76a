/* Loops over the rows of 3x3 windows, for the kernels of tiles in L1.

   The inner loops walk along the columns of three rows (two of outputs in the input gradient at stride
   2). Every column that is loaded is used for all results that it meets, whose sums stay in registers: 9 FMAs
   for 3 loads, at stride 2 for 6. FMAs alternate with the rest, of which there is no more than FMAs: two
   cores share one FPU, so that 1 cycle per MAC of a pair of cores (4 MAC/clk on 8) is the bound. First and
   last columns are outside the loops: nothing is multiplied with padding there, and a row costs 4 to 24
   cycles besides its FMAs. A row that lies outside is one zero, read again and again. */

#ifndef FAST_ROWS_H
#define FAST_ROWS_H

#include <stdint.h>

#include "fast_group.h"
#include "inner_rows.h"
#include "inner_weigh.h"
#include "tcl_fast_dw_fp32.h"

/* The contract of a tile whose num_results rows of results are shared by the cores; the other plane may be
   empty. */
static inline void check_tile(struct tcl_dw_tile const *t, int num_results)
{
    struct tcl_window const *const w = &t->window;
    TCL_CHECK(num_results > 0 && w->H >= 0 && w->Ho >= 0 && w->W > 0 && w->Wo > 0);
    TCL_CHECK(t->x_stride >= w->H * w->W && t->y_stride >= w->Ho * w->Wo);
    (void)w, (void)num_results;
}

/* The input gradient at stride 1: the weights turned round. */
static inline void correlate_turned(struct group const *g, float const w[9], float *dx, int width)
{
    float const turned[9] = {w[8], w[7], w[6], w[5], w[4], w[3], w[2], w[1], w[0]};
    correlate(g, turned, 0.0f, (struct range){INT32_MIN, INT32_MAX}, dx, width);
}

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

/* What is decided once for all channels of a call. */
struct plan {
    int usual; /* the inner loops do it; else the rest is of no use */
    struct inner inner;
    int from, reach,
        stride; /* result 0 meets rows `from` to from + reach, the next result `stride` further */
    int num_rows, width, distance; /* of the planes that are read; elements from plane to plane */
    float zero;                    /* what is outside; on the stack, which is in L1 */
    int at, stop;                  /* the results that the groups are made for */
    struct group groups[MOST_GROUPS];
};

/* Is it fast, as far as columns tell: 3x3, stride 1 or 2, padding 1 on both sides, an even width at stride 2.
   TileWindow.has_usual_columns in Python says the same. */
static inline int has_usual_columns(struct tcl_window const *w)
{
    int const is_3x3 = w->kh == 3 && w->kw == 3 && w->stride_h == w->stride_w;
    int const fits = w->stride_w == 1 ? w->W == w->Wo : w->stride_w == 2 && w->W == 2 * w->Wo;
    return is_3x3 && fits && w->pad_left == 1 && w->W >= 2;
}

/* The walk from num_results rows of results over the rows of inputs, or of outputs if it `reads_y`. It is
   fast where the middle one of the three rows of every result is inside too. */
static inline void plan_walk(struct plan *plan, struct tcl_dw_tile const *t, int stride, int pad_top,
                             int num_results, int reads_y)
{
    struct tcl_window const *const w = &t->window;
    plan->num_rows = reads_y ? w->Ho : w->H;
    plan->width = reads_y ? w->Wo : w->W;
    plan->distance = reads_y ? t->y_stride : t->x_stride;
    plan->from = -pad_top;
    plan->reach = 2;
    plan->stride = stride;
    plan->zero = 0.0f;
    plan->at = plan->stop = -1;
    plan->usual =
        has_usual_columns(w) && pad_top <= 1 && (num_results - 1) * stride - pad_top + 1 < plan->num_rows;
    plan->inner = inner_rows(stride, pad_top, plan->num_rows, num_results);
}

/* The groups for results at to stop of one plane. */
static inline void make_groups(struct plan *plan, float const *plane)
{
    int at = plan->at, from = plan->from + at * plan->stride;
    for (struct group *g = plan->groups;; g++) {
        int const is_inner = at >= plan->inner.first && at < plan->inner.stop;
        g->num = at >= plan->stop ? 0 : is_inner ? tcl_min(plan->stop, plan->inner.stop) - at : 1;
        if (g->num == 0)
            return;
        int const offset = from * plan->width; /* of row[0], which may lie outside */
        g->first_step = from >= 0 ? (int)sizeof(float) : 0;
        g->last_step = from + plan->reach < plan->num_rows ? (int)sizeof(float) : 0;
        g->row[0] = g->first_step ? plane + offset : &plan->zero;
        g->row[1] = plane + (offset + plan->width);
        g->row[2] = g->last_step ? plane + (offset + plan->reach * plan->width) : &plan->zero;
        at += g->num;
        from += g->num * plan->stride;
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

/* Makes the groups for results at to stop of plane c of `planes`; the plane before has been the last. */
static inline void enter_plane(struct plan *plan, float const *planes, int c, int at, int stop)
{
    if (plan->at == at && plan->stop == stop) {
        move_groups(plan->groups, plan->distance);
        return;
    }
    plan->at = at;
    plan->stop = stop;
    make_groups(plan, planes + c * plan->distance);
}

/* The 9 sums of plane c of x with a plane of dy, where it is usual. */
static inline void weigh_plane(struct plan *plan, struct tcl_window const *w, float const *x, int c,
                               float const *dy, float sums[9])
{
    enter_plane(plan, x, c, 0, w->Ho);
    if (w->stride_h == 1)
        weigh(plan->groups, dy, sums, w->W);
    else
        weigh_2(plan->groups, dy, sums, w->W);
}

#endif
