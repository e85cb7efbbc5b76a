/* Depthwise convolution on one tile in L1; fast with 3x3 windows, stride 1 or 2, padding 1, and even widths
   at stride 2.

   Each function is a body: every core of the team calls it with the same arguments and does its part; what
   it wrote is there for others after the team's next barrier or join. Everything lies in L1, floats aligned
   to 4 bytes; no scratch. */
#ifndef TCL_FAST_DW_FP32_H
#define TCL_FAST_DW_FP32_H

#include "tcl_fast_fp32.h"
#include "tcl_window.h"

/* The geometry of a tile: some channels and some rows of a layer, with all columns. Its window's H and Ho are
   the rows of the tile of inputs and of outputs; what lies outside the tile of inputs is zero. So a tile of
   rows o0 and up whose inputs begin at row i0 has the layer's padding + i0 - o0 * stride as its pad_top: no
   copies, and no padding in memory. Channels are x_stride, y_stride elements apart, rows are dense; weights
   are (C, kh, kw). */
struct tcl_dw_tile {
    int num_channels;
    int x_stride, y_stride;
    struct tcl_window window;
};

/* y = act(bias + w * x); bias NULL: none. The tile of x holds every row that y's windows meet, but padding.
   Cores share the rows of all channels. */
void tcl_fast_dw_fw_fp32(struct tcl_dw_tile const *t, float const *x, float const *w, float const *bias,
                         float *y, enum tcl_act act);

/* dw from x and dy, or += with `accumulate` (a later tile of rows). The rows of x as for the forward pass.
   Cores share the channels, or the weights' rows when that is more even. */
void tcl_fast_dw_wg_fp32(struct tcl_dw_tile const *t, float const *x, float const *dy, float *dw,
                         int accumulate);

/* dx from w and dy, whose tile holds every row that meets a row of dx. Cores share the rows of all channels.
 */
void tcl_fast_dw_ig_fp32(struct tcl_dw_tile const *t, float const *dy, float const *w, float *dx);

#endif
