/* Gradient descent with weight decay. Structs and names: PULP-TrainLib. */
#ifndef PULP_OPTIMIZERS_FP32_H
#define PULP_OPTIMIZERS_FP32_H

#include "pulp_train_utils_fp32.h"

/* The biases are updated too when use_biases is 1. */
struct optim_args {
    struct blob *weights;
    struct blob *biases;
    float learning_rate;
    float weight_decay_lambda;
    int use_biases;
};

/* data -= learning_rate * (diff + weight_decay_lambda * data); diff is only read. A body: every core calls
 * it. */
void pulp_gradient_descent_fp32(void *optim_args);

#endif
