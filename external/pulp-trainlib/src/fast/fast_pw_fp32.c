/* Pointwise convolution and linear layer on one tile in L1: matrix products. */

#include <stddef.h>

#include "tcl_fast_gemm_fp32.h"
#include "tcl_fast_pw_fp32.h"

void tcl_fast_pw_fw_fp32(float const *x, float const *w, float const *bias, float *y, int num_in, int num_out,
                         int num_pixels, int x_stride, int w_stride, int y_stride, int accumulate,
                         enum tcl_act act)
{
    TCL_CHECK(x_stride >= num_pixels && w_stride >= num_in && y_stride >= num_pixels);
    TCL_CHECK(!(accumulate && bias));
    struct tcl_gemm const g = {
        .a = w,
        .b = x,
        .first = bias,
        .c = y,
        .num_m = num_out,
        .num_n = num_pixels,
        .num_k = num_in,
        .a_m = w_stride,
        .a_k = 1,
        .b_n = 1,
        .b_k = x_stride,
        .c_m = y_stride,
        .base = accumulate ? y : NULL,
        .scale = 1.0f,
        .act = act,
    };
    tcl_fast_gemm_fp32(&g);
}

/* dy x^T, in rows of c w_stride elements apart, with what struct tcl_gemm says of base, scale and decay. */
static void outer(float const *x, float const *dy, float *c, int num_in, int num_out, int num_pixels,
                  int x_stride, int dy_stride, int w_stride, float const *base, float scale, float decay)
{
    TCL_CHECK(x_stride >= num_pixels && dy_stride >= num_pixels && w_stride >= num_in);
    struct tcl_gemm const g = {
        .a = dy,
        .b = x,
        .base = base,
        .c = c,
        .num_m = num_out,
        .num_n = num_in,
        .num_k = num_pixels,
        .a_m = dy_stride,
        .a_k = 1,
        .b_n = x_stride,
        .b_k = 1,
        .c_m = w_stride,
        .scale = scale,
        .decay = decay,
    };
    tcl_fast_gemm_fp32(&g);
}

void tcl_fast_pw_wg_fp32(float const *x, float const *dy, float *dw, int num_in, int num_out, int num_pixels,
                         int x_stride, int dy_stride, int w_stride, int accumulate)
{
    outer(x, dy, dw, num_in, num_out, num_pixels, x_stride, dy_stride, w_stride, accumulate ? dw : NULL, 1.0f,
          0.0f);
}

void tcl_fast_pw_descend_fp32(float const *x, float const *dy, float const *w, float *w_new, int num_in,
                              int num_out, int num_pixels, int x_stride, int dy_stride, int w_stride,
                              float rate, float decay)
{
    TCL_CHECK(w);
    outer(x, dy, w_new, num_in, num_out, num_pixels, x_stride, dy_stride, w_stride, w, -rate, decay);
}

void tcl_fast_pw_ig_fp32(float const *dy, float const *w, float *dx, int num_in, int num_out, int num_pixels,
                         int dy_stride, int w_stride, int dx_stride, int accumulate)
{
    TCL_CHECK(dy_stride >= num_pixels && w_stride >= num_in && dx_stride >= num_pixels);
    struct tcl_gemm const g = {
        .a = w,
        .b = dy,
        .c = dx,
        .num_m = num_in,
        .num_n = num_pixels,
        .num_k = num_out,
        .a_m = 1,
        .a_k = w_stride,
        .b_n = 1,
        .b_k = dy_stride,
        .c_m = dx_stride,
        .base = accumulate ? dx : NULL,
        .scale = 1.0f,
    };
    tcl_fast_gemm_fp32(&g);
}
