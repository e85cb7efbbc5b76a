/* The tensor of the PULP-TrainLib API, and what every kernel of this library needs. */
#ifndef PULP_TRAIN_UTILS_FP32_H
#define PULP_TRAIN_UTILS_FP32_H

#include <stddef.h>

/* A tensor in CHW layout with its gradient. `dim` counts elements: C * H * W for an activation. For weights W
   and H are the kernel's. `diff` is NULL where no gradient is kept. */
struct blob {
    float *data;
    float *diff;
    int dim;
    int W;
    int H;
    int C;
};

#endif
