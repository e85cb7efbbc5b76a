/* Fully connected layer. Structs and names: PULP-TrainLib. */
#ifndef PULP_LINEAR_FP32_H
#define PULP_LINEAR_FP32_H

#include "pulp_train_utils_fp32.h"

/* input (I), coeff (O, I), bias (O), output (O). The bias is used when use_biases is 1. The opt_matmul_type
   fields select upstream's variants and are not used. */
struct Linear_args {
    struct blob *input;
    struct blob *coeff;
    struct blob *bias;
    struct blob *output;
    int skip_wg_grad;
    int skip_in_grad;
    int opt_matmul_type_fw;
    int opt_matmul_type_wg;
    int opt_matmul_type_ig;
    int use_biases;
};

/* output.data from input.data, coeff.data and bias.data. Forks. */
void pulp_linear_fp32_fw_cl(void *Linear_args);

/* Parameter gradients unless skip_wg_grad, then the input gradient unless skip_in_grad. Forks. */
void pulp_linear_fp32_bw_cl(void *Linear_args);

/* coeff.diff from input.data and output.diff, bias.diff from output.diff; one that is NULL is left out.
 * Forks. */
void pulp_linear_fp32_bw_param_grads_cl(void *Linear_args);

/* input.diff from coeff.data and output.diff. Forks. */
void pulp_linear_fp32_bw_input_grads_cl(void *Linear_args);

#endif
