/* Pointwise convolution and linear layer on one tile in L1, fast.

   Each function is a body: every core of the team calls it with the same arguments and does its part; what
   it wrote is there for others after the team's next barrier or join. Everything lies in L1, floats aligned
   to 4 bytes; no scratch. Cores share 4-row strips of the output, column by column: 8 cores are busy from 32
   outputs on. */
#ifndef TCL_FAST_PW_FP32_H
#define TCL_FAST_PW_FP32_H

#include "tcl_fast_fp32.h"

/* A tile: num_pixels (>= 1) neighbouring elements of each channel; channels of inputs and outputs are
   x_stride, y_stride elements apart. Weights (num_out, num_in), rows w_stride elements apart. Any part of a
   layer is a tile: pixels, output or input channels. A linear layer is a tile of one pixel (strides 1). */
struct tcl_pw_tile {
    int num_in, num_out, num_pixels;
    int x_stride, y_stride, w_stride;
};

/* y = act(bias + w x); bias NULL: none. With `accumulate`, y += instead (a later tile of input channels; bias
   NULL then, and act at the last). */
void tcl_fast_pw_fw_fp32(struct tcl_pw_tile const *t, float const *x, float const *w, float const *bias,
                         float *y, int accumulate, enum tcl_act act);

/* dw = dy x^T, or += with `accumulate` (a later tile of pixels). Full speed when x_stride == y_stride. */
void tcl_fast_pw_wg_fp32(struct tcl_pw_tile const *t, float const *x, float const *dy, float *dw,
                         int accumulate);

/* w_new = w - rate * (dy x^T + decay * w): plain SGD by the gradient of all pixels, which is stored nowhere.
   w_new's rows are w_stride elements apart too. */
void tcl_fast_pw_descend_fp32(struct tcl_pw_tile const *t, float const *x, float const *dy, float const *w,
                              float *w_new, float rate, float decay);

/* dx = w^T dy, or += with `accumulate` (a later tile of output channels). */
void tcl_fast_pw_ig_fp32(struct tcl_pw_tile const *t, float const *dy, float const *w, float *dx,
                         int accumulate);

#endif
