/* Depthwise convolution, CHW, any kernel, stride and padding. Structs and names: PULP-TrainLib; its bias is
   tcl_bias_fp32.h. */
#ifndef PULP_CONV_DW_FP32_H
#define PULP_CONV_DW_FP32_H

#include "pulp_train_utils_fp32.h"

/* input (C, H, W), coeff (C, kh, kw), output (C, Ho, Wo); HWC must be 0. */
struct DepthWise_Conv_args {
    struct blob *input;
    struct blob *coeff;
    struct blob *output;
    int stride_h;
    int stride_w;
    int Lpad;
    int Rpad;
    int Upad;
    int Dpad;
    int skip_wg_grad;
    int skip_in_grad;
    int HWC;
};

/* output.data from input.data and coeff.data. Forks. */
void pulp_conv_dw_fp32_fw_cl(void *DepthWise_Conv_args);

/* Weight gradient unless skip_wg_grad, then the input gradient unless skip_in_grad. Forks. */
void pulp_conv_dw_fp32_bw_cl(void *DepthWise_Conv_args);

/* coeff.diff from input.data and output.diff. Forks. */
void pulp_conv_dw_fp32_bw_param_grads_cl(void *DepthWise_Conv_args);

/* input.diff from coeff.data and output.diff. Forks. */
void pulp_conv_dw_fp32_bw_input_grads_cl(void *DepthWise_Conv_args);

#endif
