/* Pointwise (1x1) convolution, CHW. Structs and names: PULP-TrainLib; its bias is tcl_bias_fp32.h. */
#ifndef PULP_CONV_PW_FP32_H
#define PULP_CONV_PW_FP32_H

#include "pulp_train_utils_fp32.h"

/* input (C_in, H, W), coeff (C_out, C_in), output (C_out, H, W).
   transpose_buffer and the opt_matmul_type fields select upstream's variants and are not used; HWC must be 0.
 */
struct PointWise_Conv_args {
    struct blob *input;
    struct blob *coeff;
    struct blob *output;
    float *transpose_buffer;
    int skip_wg_grad;
    int skip_in_grad;
    int opt_matmul_type_fw;
    int opt_matmul_type_wg;
    int opt_matmul_type_ig;
    int HWC;
};

/* output.data from input.data and coeff.data. Forks. */
void pulp_conv_pw_fp32_fw_cl(void *PointWise_Conv_args);

/* Weight gradient unless skip_wg_grad, then the input gradient unless skip_in_grad. Forks. */
void pulp_conv_pw_fp32_bw_cl(void *PointWise_Conv_args);

/* coeff.diff from input.data and output.diff. Forks. */
void pulp_conv_pw_fp32_bw_param_grads_cl(void *PointWise_Conv_args);

/* input.diff from coeff.data and output.diff. Forks. */
void pulp_conv_pw_fp32_bw_input_grads_cl(void *PointWise_Conv_args);

#endif
