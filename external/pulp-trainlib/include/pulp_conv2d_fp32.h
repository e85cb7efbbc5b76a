/* 2D convolution, CHW, any kernel, stride and padding, with or without bias. Structs and names:
 * PULP-TrainLib. */
#ifndef PULP_CONV2D_FP32_H
#define PULP_CONV2D_FP32_H

#include "pulp_train_utils_fp32.h"

/* input (C_in, H, W), coeff (C_out, C_in, kh, kw), bias (C_out), output (C_out, Ho, Wo).
   i2c_buffer, bt_buffer, the opt_matmul_type fields, USE_IM2COL and USE_DMA_IM2COL select upstream's variants
   and are not used here; HWC must be 0. The bias is used when USE_BIASES is 1. */
struct Conv2D_args {
    struct blob *input;
    struct blob *coeff;
    struct blob *bias;
    struct blob *output;
    int Lpad;
    int Rpad;
    int Upad;
    int Dpad;
    int stride_h;
    int stride_w;
    float *i2c_buffer;
    float *bt_buffer;
    int skip_wg_grad;
    int skip_in_grad;
    int HWC;
    int opt_matmul_type_fw;
    int opt_matmul_type_wg;
    int opt_matmul_type_ig;
    int USE_BIASES;
    int USE_IM2COL;
    int USE_DMA_IM2COL;
};

/* output.data from input.data, coeff.data and bias.data. Forks. */
void pulp_conv2d_fp32_fw_cl(void *Conv2D_args);

/* Parameter gradients unless skip_wg_grad, then the input gradient unless skip_in_grad. Forks. */
void pulp_conv2d_fp32_bw_cl(void *Conv2D_args);

/* coeff.diff from input.data and output.diff, bias.diff from output.diff; one that is NULL is left out.
 * Forks. */
void pulp_conv2d_fp32_bw_param_grads_cl(void *Conv2D_args);

/* input.diff from coeff.data and output.diff. Forks. */
void pulp_conv2d_fp32_bw_input_grads_cl(void *Conv2D_args);

#endif
