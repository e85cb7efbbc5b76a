/* Mask of ReLU, bias gradient and average pooling on one tile in L1. */

#include <stdint.h>

#include "inner_map.h"
#include "tcl_fast_map_fp32.h"
#include "tcl_split.h"

static float sum_of(float const *x, int num)
{
    int const num_fours = num / 4;
    float s[4] = {0.0f};
    sum_fours(x, num_fours, s);
    for (int i = 4 * num_fours; i < num; i++)
        s[0] += x[i];
    return s[0] + s[1] + (s[2] + s[3]);
}

static void mask_elements(struct tcl_map_tile const *t, float const *y, float *dy, uint32_t limit)
{
    int const num_pixels = t->num_pixels;
    int start, stop;
    tcl_split(t->num_channels * num_pixels, &start, &stop);
    int c = start / num_pixels, i = start - c * num_pixels;
    for (int left = stop - start; left > 0; c++, i = 0) {
        int const num = num_pixels - i < left ? num_pixels - i : left;
        mask(y + c * t->y_stride + i, dy + c * t->dy_stride + i, num, limit);
        left -= num;
    }
}

void tcl_fast_bias_act_bw_fp32(struct tcl_map_tile const *t, float const *y, float *dy, float *db,
                               int accumulate, enum tcl_act act)
{
    uint32_t const limit = act == TCL_ACT_RELU6 ? TCL_SIX_BITS : 0x7f800001; /* behind infinity */
    int start, stop;
    TCL_CHECK(t->num_channels > 0 && t->num_pixels > 0 && dy && t->dy_stride >= t->num_pixels);
    TCL_CHECK(act == TCL_ACT_NONE || (y && t->y_stride >= t->num_pixels));
    if (!db) {
        if (act != TCL_ACT_NONE)
            mask_elements(t, y, dy, limit);
        return;
    }
    tcl_split(t->num_channels, &start, &stop);
    for (int c = start; c < stop; c++) {
        float *const row = dy + c * t->dy_stride;
        float const sum = act == TCL_ACT_NONE ? sum_of(row, t->num_pixels)
                                              : mask(y + c * t->y_stride, row, t->num_pixels, limit);
        db[c] = accumulate ? db[c] + sum : sum;
    }
}

void tcl_fast_avgpool_fw_fp32(float const *x, float *y, int num_channels, int num_pixels, int x_stride,
                              float scale, int accumulate)
{
    int start, stop;
    TCL_CHECK(num_channels > 0 && num_pixels > 0 && x && y && x_stride >= num_pixels);
    tcl_split(num_channels, &start, &stop);
    for (int c = start; c < stop; c++) {
        float const mean = scale * sum_of(x + c * x_stride, num_pixels);
        y[c] = accumulate ? y[c] + mean : mean;
    }
}

void tcl_fast_avgpool_bw_fp32(float const *dy, float *dx, int num_channels, int num_pixels, int dx_stride,
                              float scale)
{
    int start, stop;
    TCL_CHECK(num_channels > 0 && num_pixels > 0 && dy && dx && dx_stride >= num_pixels);
    tcl_split(num_channels, &start, &stop);
    for (int c = start; c < stop; c++) {
        float const value = scale * dy[c];
        for (int i = 0; i < num_pixels; i++)
            dx[c * dx_stride + i] = value;
    }
}
