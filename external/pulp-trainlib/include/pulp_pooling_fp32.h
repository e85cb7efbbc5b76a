/* Average pooling, CHW, no padding. Structs and names: PULP-TrainLib. */
#ifndef PULP_POOLING_FP32_H
#define PULP_POOLING_FP32_H

#include "pulp_train_utils_fp32.h"

/* input (C, H, W), output (C, (H - Hker) / Hstride + 1, (W - Wker) / Wstride + 1). */
struct pool_args {
    struct blob *input;
    struct blob *output;
    int Hker;
    int Wker;
    int Hstride;
    int Wstride;
};

/* output.data from input.data. A body: every core of the cluster calls it. */
void pulp_avgpool_fp32_fw_cl(void *pool_args);

/* input.diff from output.diff. A body: every core of the cluster calls it. */
void pulp_avgpool_fp32_bw_cl(void *pool_args);

#endif
