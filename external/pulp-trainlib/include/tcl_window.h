/* One channel of a padded, strided convolution, seen from each side: an output, a weight, an input.

   Depthwise convolution is this for each channel; a full convolution sums it over channels. Every function
   returns one finished number, so that the order of its sum does not depend on the number of cores. */
#ifndef TCL_WINDOW_H
#define TCL_WINDOW_H

#include "port.h"
#include "pulp_train_utils_fp32.h"

/* Sizes of one input plane (H, W), kernel (kh, kw) and output plane (Ho, Wo). Padding at the bottom and the
   right follows from them. */
struct tcl_window {
    int H, W;
    int Ho, Wo;
    int kh, kw;
    int stride_h, stride_w;
    int pad_top, pad_left;
};

/* The window of a convolution from x to y with kernel k; `pad` is left, right, top, bottom. Checks that the
   sizes fit each other. */
static inline struct tcl_window tcl_window_of(struct blob const *x, struct blob const *k,
                                              struct blob const *y, int const pad[4], int stride_h,
                                              int stride_w)
{
    PORT_CHECK(y->W == (x->W + pad[0] + pad[1] - k->W) / stride_w + 1);
    PORT_CHECK(y->H == (x->H + pad[2] + pad[3] - k->H) / stride_h + 1);
    return (struct tcl_window){
        .H = x->H,
        .W = x->W,
        .Ho = y->H,
        .Wo = y->W,
        .kh = k->H,
        .kw = k->W,
        .stride_h = stride_h,
        .stride_w = stride_w,
        .pad_top = pad[2],
        .pad_left = pad[0],
    };
}

static inline int tcl_max(int a, int b)
{
    return a > b ? a : b;
}

static inline int tcl_min(int a, int b)
{
    return a < b ? a : b;
}

/* a / b rounded up, for b > 0 and any a. */
static inline int tcl_ceil_div(int a, int b)
{
    return a > 0 ? (a + b - 1) / b : -(-a / b);
}

/* a / b rounded down, for b > 0 and any a. */
static inline int tcl_floor_div(int a, int b)
{
    return a >= 0 ? a / b : -((-a + b - 1) / b);
}

/* Forward: sum over the window of x (H, W) * k (kh, kw) at output (oy, ox). */
static inline float tcl_window_fw(struct tcl_window const *w, float const *x, float const *k, int oy, int ox)
{
    int const y0 = oy * w->stride_h - w->pad_top;
    int const x0 = ox * w->stride_w - w->pad_left;
    int const ky_stop = tcl_min(w->kh, w->H - y0);
    int const kx_first = tcl_max(0, -x0);
    int const kx_stop = tcl_min(w->kw, w->W - x0);
    float sum = 0.0f;
    for (int ky = tcl_max(0, -y0); ky < ky_stop; ky++) {
        float const *const row = x + (y0 + ky) * w->W;
        for (int kx = kx_first; kx < kx_stop; kx++)
            sum += row[x0 + kx] * k[ky * w->kw + kx];
    }
    return sum;
}

/* Weight gradient: sum over all outputs of x (H, W) * dy (Ho, Wo) for the weight (ky, kx). Rows are summed
   apart, which keeps the rounding error of large planes small. */
static inline float tcl_window_wg(struct tcl_window const *w, float const *x, float const *dy, int ky, int kx)
{
    int const oy_first = tcl_max(0, tcl_ceil_div(w->pad_top - ky, w->stride_h));
    int const oy_stop = tcl_min(w->Ho, tcl_floor_div(w->H - 1 + w->pad_top - ky, w->stride_h) + 1);
    int const ox_first = tcl_max(0, tcl_ceil_div(w->pad_left - kx, w->stride_w));
    int const ox_stop = tcl_min(w->Wo, tcl_floor_div(w->W - 1 + w->pad_left - kx, w->stride_w) + 1);
    float sum = 0.0f;
    for (int oy = oy_first; oy < oy_stop; oy++) {
        float const *const row = x + (oy * w->stride_h - w->pad_top + ky) * w->W;
        float row_sum = 0.0f;
        for (int ox = ox_first; ox < ox_stop; ox++)
            row_sum += row[ox * w->stride_w - w->pad_left + kx] * dy[oy * w->Wo + ox];
        sum += row_sum;
    }
    return sum;
}

/* Input gradient: sum of dy (Ho, Wo) * k (kh, kw) over all windows that the input (iy, ix) lies in. */
static inline float tcl_window_ig(struct tcl_window const *w, float const *dy, float const *k, int iy, int ix)
{
    int const y = iy + w->pad_top;
    int const x = ix + w->pad_left;
    int const oy_first = tcl_max(0, tcl_ceil_div(y - w->kh + 1, w->stride_h));
    int const oy_stop = tcl_min(w->Ho, y / w->stride_h + 1);
    int const ox_first = tcl_max(0, tcl_ceil_div(x - w->kw + 1, w->stride_w));
    int const ox_stop = tcl_min(w->Wo, x / w->stride_w + 1);
    float sum = 0.0f;
    for (int oy = oy_first; oy < oy_stop; oy++) {
        float const *const k_row = k + (y - oy * w->stride_h) * w->kw;
        for (int ox = ox_first; ox < ox_stop; ox++)
            sum += dy[oy * w->Wo + ox] * k_row[x - ox * w->stride_w];
    }
    return sum;
}

/* The index in plane x (H, W) of the first maximum of the window of output (oy, ox). */
static inline int tcl_window_largest(struct tcl_window const *w, float const *x, int oy, int ox)
{
    int const y0 = oy * w->stride_h - w->pad_top, x0 = ox * w->stride_w - w->pad_left;
    int const y_first = tcl_max(y0, 0), x_first = tcl_max(x0, 0);
    int const y_stop = tcl_min(y0 + w->kh, w->H), x_stop = tcl_min(x0 + w->kw, w->W);
    int best = y_first * w->W + x_first;
    for (int iy = y_first; iy < y_stop; iy++)
        for (int ix = x_first; ix < x_stop; ix++)
            if (x[iy * w->W + ix] > x[best])
                best = iy * w->W + ix;
    return best;
}

#endif
