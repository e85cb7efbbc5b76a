/* What is done element by element on one tile in L1: ReLU's mask with the bias gradient, average pooling.

   Bodies, as in tcl_fast_pw_fp32.h: everything in L1, no scratch; channels are `stride` elements apart. */
#ifndef TCL_FAST_MAP_FP32_H
#define TCL_FAST_MAP_FP32_H

#include "tcl_fast_fp32.h"

/* The channels of a tile. */
struct tcl_map_tile {
    int num_channels, num_pixels;
    int y_stride, dy_stride;
};

/* Backward of y = act(bias + ...): where y is not strictly inside act's range, dy becomes 0; then db is the
   sum of dy of each channel, or += with `accumulate` (a later tile of pixels). With TCL_ACT_NONE y is not
   used and dy only read; db NULL: no sums. Cores share the channels, without db all elements. */
void tcl_fast_bias_act_bw_fp32(struct tcl_map_tile const *t, float const *y, float *dy, float *db,
                               int accumulate, enum tcl_act act);

/* y[c] = scale * sum of x's channel c, or += with `accumulate` (a later tile of pixels): global average
   pooling with scale = 1 / pixels of the layer. Cores share the channels. */
void tcl_fast_avgpool_fw_fp32(float const *x, float *y, int num_channels, int num_pixels, int x_stride,
                              float scale, int accumulate);

/* All of dx's channel c = scale * dy[c]. Cores share the channels. */
void tcl_fast_avgpool_bw_fp32(float const *dy, float *dx, int num_channels, int num_pixels, int dx_stride,
                              float scale);

#endif
