/* ReLU. Structs and names: PULP-TrainLib. */
#ifndef PULP_ACT_FP32_H
#define PULP_ACT_FP32_H

#include "pulp_train_utils_fp32.h"

/* input and output have the same shape and may be the same blob: both directions work in place. H and W are
   not used. */
struct act_args {
    struct blob *input;
    struct blob *output;
    int H;
    int W;
};

/* output.data = max(input.data, 0). Forks. */
void pulp_relu_fp32_fw_cl(void *act_args);

/* input.diff = output.diff where input.data > 0, else 0. Before or after the forward pass in place gives the
   same. Forks. */
void pulp_relu_fp32_bw_cl(void *act_args);

#endif
