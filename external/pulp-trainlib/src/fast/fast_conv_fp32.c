/* 3x3 convolution from few channels on one tile in L1: for each pair of channels a depthwise one. */

#include "fast_rows.h"
#include "tcl_fast_conv_fp32.h"
#include "tcl_split.h"

/* Rows oy to stop of one channel of y; w are its weights. Any geometry. */
static void forward_any(struct tcl_dw_tile const *t, int num_in, float const *x, float const *w, float b,
                        struct range range, float *y, int oy, int stop)
{
    struct tcl_window const window = window_3x3(t);
    for (; oy < stop; oy++)
        for (int ox = 0; ox < t->Wo; ox++) {
            float sum = b;
            for (int ci = 0; ci < num_in; ci++)
                sum += tcl_window_fw(&window, x + ci * t->x_stride, w + 9 * ci, oy, ox);
            y[oy * t->Wo + ox] = limited(sum, range);
        }
}

void tcl_fast_conv_fw_fp32(struct tcl_dw_tile const *t, int num_in, int num_out, float const *x,
                           float const *w, float const *bias, float *y, enum tcl_act act)
{
    struct range const range = range_of(act);
    struct plan plan;
    int start, stop;
    check_tile(t, t->Ho);
    TCL_CHECK(num_in > 0 && num_out > 0 && x && w && y);
    plan_walk(&plan, t, t->stride, t->pad_top, t->Ho, 0);
    tcl_split(num_out * t->Ho, &start, &stop);
    int co = start / t->Ho, oy = start - co * t->Ho;
    for (int left = stop - start; left > 0; co++, oy = 0) {
        int const end = tcl_min(t->Ho, oy + left);
        float const b = bias ? bias[co] : 0.0f;
        float const *const weights = w + 9 * num_in * co;
        left -= end - oy;
        if (!plan.usual || t->stride != 2) {
            forward_any(t, num_in, x, weights, b, range, y + co * t->y_stride, oy, end);
            continue;
        }
#ifdef TCL_XPULP
        float *const to = y + co * t->y_stride + oy * t->Wo;
        for (int ci = 0; ci < num_in; ci++) {
            struct range const now = ci + 1 < num_in ? range_of(TCL_ACT_NONE) : range;
            plan.stop = -1;
            enter_plane(&plan, x, ci, oy, end);
            if (ci == 0)
                correlate_2(plan.groups, weights, b, now, to, t->W);
            else
                correlate_2_more(plan.groups, weights + 9 * ci, now, to, t->W);
        }
#endif
    }
}

/* The 9 sums of one pair of planes. */
static void weigh_pair(struct plan *plan, struct tcl_dw_tile const *t, float const *x, int ci,
                       float const *dy, float sums[9])
{
#ifdef TCL_XPULP_WIDE
    if (plan->usual) {
        plan->stop = -1;
        enter_plane(plan, x, ci, 0, t->Ho);
        if (t->stride == 1)
            weigh(plan->groups, dy, sums, t->W);
        else
            weigh_2(plan->groups, dy, sums, t->W);
        return;
    }
#endif
    struct tcl_window const window = window_3x3(t);
    for (int i = 0; i < 9; i++)
        sums[i] = tcl_window_wg(&window, x + ci * t->x_stride, dy, i / 3, i % 3);
    (void)plan;
}

void tcl_fast_conv_wg_fp32(struct tcl_dw_tile const *t, int num_in, int num_out, float const *x,
                           float const *dy, float *dw, int accumulate)
{
    struct plan plan;
    int start, stop;
    check_tile(t, t->Ho);
    TCL_CHECK(num_in > 0 && num_out > 0 && x && dy && dw);
    plan_walk(&plan, t, t->stride, t->pad_top, t->Ho, 0);
    tcl_split(num_in * num_out, &start, &stop);
    for (; start < stop; start++) {
        int const co = start / num_in, ci = start - co * num_in;
        float sums[9];
        weigh_pair(&plan, t, x, ci, dy + co * t->y_stride, sums);
        for (int i = 0; i < 9; i++)
            dw[9 * start + i] = accumulate ? dw[9 * start + i] + sums[i] : sums[i];
    }
}
