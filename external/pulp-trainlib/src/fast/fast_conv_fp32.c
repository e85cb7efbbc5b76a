/* 3x3 convolution from few channels on one tile in L1: for each pair of channels a depthwise one. */

#include "fast_rows.h"
#include "tcl_fast_conv_fp32.h"
#include "tcl_split.h"

/* One channel of y: its weights for all of x, its bias, what its results are between. */
struct channel {
    int num_in;
    float const *x, *w;
    float b;
    struct range range;
    float *y;
};

/* Rows oy to stop, any geometry. */
static void forward_any(struct tcl_dw_tile const *t, struct channel const *c, int oy, int stop)
{
    struct tcl_window const *const window = &t->window;
    for (; oy < stop; oy++)
        for (int ox = 0; ox < window->Wo; ox++) {
            float sum = c->b;
            for (int ci = 0; ci < c->num_in; ci++)
                sum += tcl_window_fw(window, c->x + ci * t->x_stride, c->w + 9 * ci, oy, ox);
            c->y[oy * window->Wo + ox] = limited(sum, c->range);
        }
}

/* The same at stride 2, where the walk is usual. */
static void forward_usual(struct plan *plan, struct channel const *c, int oy, int stop)
{
    float *const y = c->y + oy * (plan->width / 2);
    for (int ci = 0; ci < c->num_in; ci++) {
        struct range const now = ci + 1 < c->num_in ? range_of(TCL_ACT_NONE) : c->range;
        plan->stop = -1;
        enter_plane(plan, c->x, ci, oy, stop);
        if (ci == 0)
            correlate_2(plan->groups, c->w, c->b, now, y, plan->width);
        else
            correlate_2_more(plan->groups, c->w + 9 * ci, now, y, plan->width);
    }
}

void tcl_fast_conv_fw_fp32(struct tcl_dw_tile const *t, int num_in, int num_out, float const *x,
                           float const *w, float const *bias, float *y, enum tcl_act act)
{
    struct range const range = range_of(act);
    struct tcl_window const *const window = &t->window;
    int const num_rows = window->Ho;
    struct plan plan;
    int start, stop;
    check_tile(t, num_rows);
    TCL_CHECK(num_in > 0 && num_out > 0 && x && w && y && window->kh == 3 && window->kw == 3);
    plan_walk(&plan, t, window->stride_h, window->pad_top, num_rows, 0);
    tcl_split(num_out * num_rows, &start, &stop);
    int co = start / num_rows, oy = start - co * num_rows;
    for (int left = stop - start; left > 0; co++, oy = 0) {
        int const end = tcl_min(num_rows, oy + left);
        struct channel const channel = {
            .num_in = num_in,
            .x = x,
            .w = w + 9 * num_in * co,
            .b = bias ? bias[co] : 0.0f,
            .range = range,
            .y = y + co * t->y_stride,
        };
        left -= end - oy;
        if (plan.usual && window->stride_h == 2)
            forward_usual(&plan, &channel, oy, end);
        else
            forward_any(t, &channel, oy, end);
    }
}

/* The 9 sums of one pair of planes. */
static void weigh_pair(struct plan *plan, struct tcl_dw_tile const *t, float const *x, int ci,
                       float const *dy, float sums[9])
{
    plan->stop = -1;
    if (plan->usual)
        weigh_plane(plan, &t->window, x, ci, dy, sums);
    else
        for (int i = 0; i < 9; i++)
            sums[i] = tcl_window_wg(&t->window, x + ci * t->x_stride, dy, i / 3, i % 3);
}

void tcl_fast_conv_wg_fp32(struct tcl_dw_tile const *t, int num_in, int num_out, float const *x,
                           float const *dy, float *dw, int accumulate)
{
    struct tcl_window const *const window = &t->window;
    struct plan plan;
    int start, stop;
    check_tile(t, window->Ho);
    TCL_CHECK(num_in > 0 && num_out > 0 && x && dy && dw && window->kh == 3 && window->kw == 3);
    plan_walk(&plan, t, window->stride_h, window->pad_top, window->Ho, 0);
    tcl_split(num_in * num_out, &start, &stop);
    for (; start < stop; start++) {
        int const co = start / num_in, ci = start - co * num_in;
        float sums[9];
        weigh_pair(&plan, t, x, ci, dy + co * t->y_stride, sums);
        for (int i = 0; i < 9; i++)
            dw[9 * start + i] = accumulate ? dw[9 * start + i] + sums[i] : sums[i];
    }
}
