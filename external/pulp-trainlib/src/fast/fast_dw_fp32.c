/* Depthwise 3x3 convolution on one tile in L1. */

#include "fast_rows.h"
#include "tcl_fast_dw_fp32.h"
#include "tcl_split.h"

/* Rows oy to stop of channel c, any geometry. */
static void forward_any(struct tcl_dw_tile const *t, float const *x, float const *w, float b,
                        struct range range, float *y, int oy, int stop)
{
    struct tcl_window const window = window_3x3(t);
    for (; oy < stop; oy++)
        for (int ox = 0; ox < t->Wo; ox++)
            y[oy * t->Wo + ox] = limited(b + tcl_window_fw(&window, x, w, oy, ox), range);
}

void tcl_fast_dw_fw_fp32(struct tcl_dw_tile const *t, float const *x, float const *w, float const *bias,
                         float *y, enum tcl_act act)
{
    struct range const range = range_of(act);
    int const num_rows = t->Ho;
    struct plan plan;
    int start, stop;
    check_tile(t, t->Ho);
    TCL_CHECK(t->num_channels > 0 && x && w && y);
    plan_walk(&plan, t, t->stride, t->pad_top, t->Ho, 0);
    tcl_split(t->num_channels * num_rows, &start, &stop);
    int c = start / num_rows, oy = start - c * num_rows;
    for (int left = stop - start; left > 0; c++, oy = 0) {
        int const end = tcl_min(num_rows, oy + left);
        float const b = bias ? bias[c] : 0.0f;
        left -= end - oy;
        if (!plan.usual) {
            forward_any(t, x + c * t->x_stride, w + 9 * c, b, range, y + c * t->y_stride, oy, end);
            continue;
        }
#ifdef TCL_XPULP
        enter_plane(&plan, x, c, oy, end);
        if (t->stride == 1)
            correlate(plan.groups, w + 9 * c, b, range, y + c * t->y_stride + oy * t->Wo, t->W);
        else
            correlate_2(plan.groups, w + 9 * c, b, range, y + c * t->y_stride + oy * t->Wo, t->W);
#endif
    }
}

/* The 9 sums of channel c, any geometry. */
static void weigh_any(struct tcl_dw_tile const *t, float const *x, float const *dy, float sums[9])
{
    struct tcl_window const window = window_3x3(t);
    for (int i = 0; i < 9; i++)
        sums[i] = tcl_window_wg(&window, x, dy, i / 3, i % 3);
}

void tcl_fast_dw_wg_fp32(struct tcl_dw_tile const *t, float const *x, float const *dy, float *dw,
                         int accumulate)
{
    struct plan plan;
    int start, stop;
    check_tile(t, t->Ho);
    TCL_CHECK(t->num_channels > 0 && x && dy && dw);
    plan_walk(&plan, t, t->stride, t->pad_top, t->Ho, 0);
    tcl_split(t->num_channels, &start, &stop);
    for (int c = start; c < stop; c++) {
        float sums[9];
#ifdef TCL_XPULP_WIDE
        if (plan.usual) {
            enter_plane(&plan, x, c, 0, t->Ho);
            if (t->stride == 1)
                weigh(plan.groups, dy + c * t->y_stride, sums, t->W);
            else
                weigh_2(plan.groups, dy + c * t->y_stride, sums, t->W);
        } else
#endif
            weigh_any(t, x + c * t->x_stride, dy + c * t->y_stride, sums);
        for (int i = 0; i < 9; i++)
            dw[9 * c + i] = accumulate ? dw[9 * c + i] + sums[i] : sums[i];
    }
}

/* Rows iy to stop of channel c, any geometry. */
static void spread_any(struct tcl_dw_tile const *t, float const *dy, float const *w, float *dx, int iy,
                       int stop)
{
    struct tcl_window const window = window_3x3(t);
    for (; iy < stop; iy++)
        for (int ix = 0; ix < t->W; ix++)
            dx[iy * t->W + ix] = tcl_window_ig(&window, dy, w, iy, ix);
}

/* At stride 2, rows 2 r and 2 r + 1 of dx are one result: they meet rows r and r + 1 of dy. */
static void plan_pairs(struct plan *plan, struct tcl_dw_tile const *t)
{
#ifdef TCL_XPULP
    int const pairs = t->pad_top == 1 && t->H % 2 == 0 && t->H / 2 <= t->Ho && t->Wo > 1;
    plan_walk(plan, t, 1, 0, t->H / 2, 1);
    plan->reach = 1;
    plan->usual = pairs && t->pad_left == 1 && t->W == 2 * t->Wo;
    plan->inner = (struct inner){0, tcl_min(t->Ho - 1, t->H / 2)};
#else
    plan_walk(plan, t, 1, 0, 0, 1);
#endif
}

void tcl_fast_dw_ig_fp32(struct tcl_dw_tile const *t, float const *dy, float const *w, float *dx)
{
    struct plan plan;
    int start, stop;
    check_tile(t, t->H);
    TCL_CHECK(t->num_channels > 0 && dy && w && dx);
    if (t->stride == 1)
        plan_walk(&plan, t, 1, 2 - t->pad_top, t->H, 1);
    else
        plan_pairs(&plan, t);
    int const together = plan.usual && t->stride == 2 ? 2 : 1, num_units = t->H / together;
    tcl_split(t->num_channels * num_units, &start, &stop);
    int c = start / num_units, unit = start - c * num_units;
    for (int left = stop - start; left > 0; c++, unit = 0) {
        int const end = tcl_min(num_units, unit + left);
        left -= end - unit;
        if (!plan.usual) {
            spread_any(t, dy + c * t->y_stride, w + 9 * c, dx + c * t->x_stride, unit, end);
            continue;
        }
#ifdef TCL_XPULP
        float *const to = dx + c * t->x_stride + unit * together * t->W;
        enter_plane(&plan, dy, c, unit, end);
        if (t->stride == 2)
            spread(plan.groups, w + 9 * c, to, t->W);
        else
            correlate_turned(plan.groups, w + 9 * c, to, t->W);
#endif
    }
}
