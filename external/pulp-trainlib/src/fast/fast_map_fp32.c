/* Mask of ReLU, bias gradient and average pooling on one tile in L1. */

#include <stdint.h>
#include <string.h>

#include "tcl_fast_map_fp32.h"
#include "tcl_split.h"

/* dy[i] = 0 unless 0 < y[i] < limit, as integers: y - 1 as unsigned is less than limit - 1. Returns the sum
   of what is left. 8 instructions an element. */
static float mask(float const *y, float *dy, int num, uint32_t limit)
{
    float sum = 0.0f;
    uint32_t const most = limit - 1;
#ifdef TCL_XPULP
    uint32_t inside, bits;
    /* clang-format off */
    if (num > 0)
        __asm__ volatile(
            XPULP_BEGIN LP_SETUP("%[num]", "8")
            P_LW("%[inside]", "%[y]", "4")
            "lw %[bits], 0(%[dy])\n"
            "addi %[inside], %[inside], -1\n"
            "sltu %[inside], %[inside], %[most]\n"
            "sub %[inside], x0, %[inside]\n"
            "and %[bits], %[bits], %[inside]\n"
            P_SW("%[bits]", "%[dy]", "4")
            "fadd.s %[sum], %[sum], %[bits]\n"
            XPULP_END
            : [y] "+&r"(y), [dy] "+&r"(dy), [sum] "+&r"(sum), [inside] "=&r"(inside), [bits] "=&r"(bits)
            : [num] "r"(num), [most] "r"(most)
            : "memory");
    /* clang-format on */
#else
    for (int i = 0; i < num; i++) {
        uint32_t bits;
        memcpy(&bits, &y[i], sizeof bits);
        dy[i] = bits - 1 < most ? dy[i] : 0.0f;
        sum += dy[i];
    }
#endif
    return sum;
}

/* 8 instructions for 4 elements. */
static float sum_of(float const *x, int num)
{
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
    int i = 0;
#ifdef TCL_XPULP
    int const fours = num / 4;
    float x0, x1, x2, x3;
    /* clang-format off */
    if (fours > 0)
        __asm__ volatile(
            XPULP_BEGIN LP_SETUP("%[num]", "8")
            P_LW("%[x0]", "%[x]", "4") P_LW("%[x1]", "%[x]", "4")
            "fadd.s %[s0], %[s0], %[x0]\n" P_LW("%[x2]", "%[x]", "4")
            "fadd.s %[s1], %[s1], %[x1]\n" P_LW("%[x3]", "%[x]", "4")
            "fadd.s %[s2], %[s2], %[x2]\n"
            "fadd.s %[s3], %[s3], %[x3]\n"
            XPULP_END
            : [x] "+&r"(x), [s0] "+&r"(s0), [s1] "+&r"(s1), [s2] "+&r"(s2), [s3] "+&r"(s3), [x0] "=&r"(x0),
              [x1] "=&r"(x1), [x2] "=&r"(x2), [x3] "=&r"(x3)
            : [num] "r"(fours)
            : "memory");
    /* clang-format on */
    num -= 4 * fours;
#else
    for (; i + 4 <= num; i += 4) {
        s0 += x[i];
        s1 += x[i + 1];
        s2 += x[i + 2];
        s3 += x[i + 3];
    }
#endif
    for (; i < num; i++)
        s0 += x[i];
    return s0 + s1 + (s2 + s3);
}

static void mask_elements(float const *y, float *dy, int num_channels, int num_pixels, int y_stride,
                          int dy_stride, uint32_t limit)
{
    int start, stop;
    tcl_split(num_channels * num_pixels, &start, &stop);
    int c = start / num_pixels, i = start - c * num_pixels;
    for (int left = stop - start; left > 0; c++, i = 0) {
        int const num = num_pixels - i < left ? num_pixels - i : left;
        mask(y + c * y_stride + i, dy + c * dy_stride + i, num, limit);
        left -= num;
    }
}

void tcl_fast_bias_act_bw_fp32(float const *y, float *dy, float *db, int num_channels, int num_pixels,
                               int y_stride, int dy_stride, int accumulate, enum tcl_act act)
{
    uint32_t const limit = act == TCL_ACT_RELU6 ? TCL_SIX_BITS : 0x7f800001; /* behind infinity */
    int start, stop;
    TCL_CHECK(num_channels > 0 && num_pixels > 0 && dy && dy_stride >= num_pixels);
    TCL_CHECK(act == TCL_ACT_NONE || (y && y_stride >= num_pixels));
    if (!db) {
        if (act != TCL_ACT_NONE)
            mask_elements(y, dy, num_channels, num_pixels, y_stride, dy_stride, limit);
        return;
    }
    tcl_split(num_channels, &start, &stop);
    for (int c = start; c < stop; c++) {
        float *const row = dy + c * dy_stride;
        float const sum =
            act == TCL_ACT_NONE ? sum_of(row, num_pixels) : mask(y + c * y_stride, row, num_pixels, limit);
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
