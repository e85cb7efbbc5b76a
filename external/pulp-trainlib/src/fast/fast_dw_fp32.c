/* Depthwise convolution on one tile in L1. */

#include "fast_rows.h"
#include "tcl_fast_dw_fp32.h"
#include "tcl_split.h"

/* Rows oy to stop of one channel, any geometry. */
static void forward_any(struct tcl_window const *window, float const *x, float const *w, float b,
                        struct range range, float *y, int oy, int stop)
{
    for (; oy < stop; oy++)
        for (int ox = 0; ox < window->Wo; ox++)
            y[oy * window->Wo + ox] = limited(b + tcl_window_fw(window, x, w, oy, ox), range);
}

void tcl_fast_dw_fw_fp32(struct tcl_dw_tile const *t, float const *x, float const *w, float const *bias,
                         float *y, enum tcl_act act)
{
    struct tcl_window const *const window = &t->window;
    struct range const range = range_of(act);
    int const num_rows = window->Ho, num_weights = window->kh * window->kw;
    struct plan plan;
    int start, stop;
    check_tile(t, num_rows);
    TCL_CHECK(t->num_channels > 0 && x && w && y);
    plan_walk(&plan, t, window->stride_h, window->pad_top, num_rows, 0);
    tcl_split(t->num_channels * num_rows, &start, &stop);
    int c = start / num_rows, oy = start - c * num_rows;
    for (int left = stop - start; left > 0; c++, oy = 0) {
        int const end = tcl_min(num_rows, oy + left);
        float const b = bias ? bias[c] : 0.0f;
        float const *const weights = w + num_weights * c;
        float *const plane = y + c * t->y_stride;
        left -= end - oy;
        if (!plan.usual) {
            forward_any(window, x + c * t->x_stride, weights, b, range, plane, oy, end);
            continue;
        }
        enter_plane(&plan, x, c, oy, end);
        if (window->stride_h == 1)
            correlate(plan.groups, weights, b, range, plane + oy * window->Wo, window->W);
        else
            correlate_2(plan.groups, weights, b, range, plane + oy * window->Wo, window->W);
    }
}

static void add_or_set(float *to, float sum, int accumulate)
{
    *to = accumulate ? *to + sum : sum;
}

void tcl_fast_dw_wg_fp32(struct tcl_dw_tile const *t, float const *x, float const *dy, float *dw,
                         int accumulate)
{
    struct tcl_window const *const window = &t->window;
    int const num_weights = window->kh * window->kw;
    struct plan plan;
    int start, stop;
    check_tile(t, window->Ho);
    TCL_CHECK(t->num_channels > 0 && x && dy && dw);
    plan_walk(&plan, t, window->stride_h, window->pad_top, window->Ho, 0);
    tcl_split(t->num_channels, &start, &stop);
    for (int c = start; c < stop; c++) {
        float const *const gradients = dy + c * t->y_stride;
        float *const to = dw + num_weights * c;
        if (plan.usual) {
            float sums[9];
            weigh_plane(&plan, window, x, c, gradients, sums);
            for (int i = 0; i < 9; i++)
                add_or_set(&to[i], sums[i], accumulate);
            continue;
        }
        for (int i = 0; i < num_weights; i++)
            add_or_set(&to[i],
                       tcl_window_wg(window, x + c * t->x_stride, gradients, i / window->kw, i % window->kw),
                       accumulate);
    }
}

/* Rows iy to stop of one channel, any geometry. */
static void spread_any(struct tcl_window const *window, float const *dy, float const *w, float *dx, int iy,
                       int stop)
{
    for (; iy < stop; iy++)
        for (int ix = 0; ix < window->W; ix++)
            dx[iy * window->W + ix] = tcl_window_ig(window, dy, w, iy, ix);
}

/* At stride 2, rows 2 r and 2 r + 1 of dx are one result: they meet rows r and r + 1 of dy. */
static void plan_pairs(struct plan *plan, struct tcl_dw_tile const *t)
{
    struct tcl_window const *const w = &t->window;
    int const pairs = w->pad_top == 1 && w->H % 2 == 0 && w->H / 2 <= w->Ho && w->Wo > 1;
    plan_walk(plan, t, 1, 0, w->H / 2, 1);
    plan->reach = 1;
    plan->usual = pairs && has_usual_columns(w);
    plan->inner = (struct inner){0, tcl_min(w->Ho - 1, w->H / 2)};
}

void tcl_fast_dw_ig_fp32(struct tcl_dw_tile const *t, float const *dy, float const *w, float *dx)
{
    struct tcl_window const *const window = &t->window;
    int const num_weights = window->kh * window->kw;
    struct plan plan;
    int start, stop;
    check_tile(t, window->H);
    TCL_CHECK(t->num_channels > 0 && dy && w && dx);
    if (window->stride_h == 2)
        plan_pairs(&plan, t);
    else
        plan_walk(&plan, t, 1, 2 - window->pad_top, window->H, 1);
    int const together = plan.usual && window->stride_h == 2 ? 2 : 1, num_units = window->H / together;
    tcl_split(t->num_channels * num_units, &start, &stop);
    int c = start / num_units, unit = start - c * num_units;
    for (int left = stop - start; left > 0; c++, unit = 0) {
        int const end = tcl_min(num_units, unit + left);
        float const *const weights = w + num_weights * c;
        float *const plane = dx + c * t->x_stride;
        left -= end - unit;
        if (!plan.usual) {
            spread_any(window, dy + c * t->y_stride, weights, plane, unit, end);
            continue;
        }
        enter_plane(&plan, dy, c, unit, end);
        if (together == 2)
            spread(plan.groups, weights, plane + 2 * unit * window->W, window->W);
        else
            correlate_turned(plan.groups, weights, plane + unit * window->W, window->W);
    }
}
