/* 3x3 convolution from few channels on one tile in L1, fast: a network's first layer.

   Bodies, as in tcl_fast_dw_fp32.h: everything in L1, no scratch. */
#ifndef TCL_FAST_CONV_FP32_H
#define TCL_FAST_CONV_FP32_H

#include "tcl_fast_dw_fp32.h"

/* y = act(bias + w * x), w (num_out, num_in, 3, 3); bias NULL: none. `t` is the geometry of one plane, its
   num_channels is not used. Full speed at stride 2, padding 1, even widths. Cores share the rows of all
   channels of y. */
void tcl_fast_conv_fw_fp32(struct tcl_dw_tile const *t, int num_in, int num_out, float const *x,
                           float const *w, float const *bias, float *y, enum tcl_act act);

/* dw from x and dy, or += with `accumulate` (a later tile of rows). Full speed at stride 1 and 2, padding 1,
   even widths at stride 2. Cores share the pairs of channels. */
void tcl_fast_conv_wg_fp32(struct tcl_dw_tile const *t, int num_in, int num_out, float const *x,
                           float const *dy, float *dw, int accumulate);

#endif
