/* Pointwise convolution and linear layer on one tile in L1: matrix products. */

#include <stddef.h>

#include "tcl_fast_gemm_fp32.h"
#include "tcl_fast_pw_fp32.h"

static void check_tile(struct tcl_pw_tile const *t)
{
    TCL_CHECK(t->x_stride >= t->num_pixels && t->y_stride >= t->num_pixels && t->w_stride >= t->num_in);
    (void)t;
}

void tcl_fast_pw_fw_fp32(struct tcl_pw_tile const *t, float const *x, float const *w, float const *bias,
                         float *y, int accumulate, enum tcl_act act)
{
    check_tile(t);
    TCL_CHECK(!(accumulate && bias));
    struct tcl_gemm const g = {
        .a = w,
        .b = x,
        .first = bias,
        .c = y,
        .num_m = t->num_out,
        .num_n = t->num_pixels,
        .num_k = t->num_in,
        .a_m = t->w_stride,
        .a_k = 1,
        .b_n = 1,
        .b_k = t->x_stride,
        .c_m = t->y_stride,
        .base = accumulate ? y : NULL,
        .scale = 1.0f,
        .act = act,
    };
    tcl_fast_gemm_fp32(&g);
}

/* c = dy x^T, in rows w_stride elements apart, with what struct tcl_gemm says of base, scale and decay. */
static void outer(struct tcl_pw_tile const *t, float const *x, float const *dy, float *c, float const *base,
                  float scale, float decay)
{
    check_tile(t);
    struct tcl_gemm const g = {
        .a = dy,
        .b = x,
        .base = base,
        .c = c,
        .num_m = t->num_out,
        .num_n = t->num_in,
        .num_k = t->num_pixels,
        .a_m = t->y_stride,
        .a_k = 1,
        .b_n = t->x_stride,
        .b_k = 1,
        .c_m = t->w_stride,
        .scale = scale,
        .decay = decay,
    };
    tcl_fast_gemm_fp32(&g);
}

void tcl_fast_pw_wg_fp32(struct tcl_pw_tile const *t, float const *x, float const *dy, float *dw,
                         int accumulate)
{
    outer(t, x, dy, dw, accumulate ? dw : NULL, 1.0f, 0.0f);
}

void tcl_fast_pw_descend_fp32(struct tcl_pw_tile const *t, float const *x, float const *dy, float const *w,
                              float *w_new, float rate, float decay)
{
    TCL_CHECK(w);
    outer(t, x, dy, w_new, w, -rate, decay);
}

void tcl_fast_pw_ig_fp32(struct tcl_pw_tile const *t, float const *dy, float const *w, float *dx,
                         int accumulate)
{
    check_tile(t);
    struct tcl_gemm const g = {
        .a = w,
        .b = dy,
        .c = dx,
        .num_m = t->num_in,
        .num_n = t->num_pixels,
        .num_k = t->num_out,
        .a_m = 1,
        .a_k = t->w_stride,
        .b_n = 1,
        .b_k = t->y_stride,
        .c_m = t->x_stride,
        .base = accumulate ? dx : NULL,
        .scale = 1.0f,
    };
    tcl_fast_gemm_fp32(&g);
}
