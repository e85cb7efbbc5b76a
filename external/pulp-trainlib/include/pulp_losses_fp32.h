/* Cross entropy and mean squared error of one sample. Structs and names: PULP-TrainLib. */
#ifndef PULP_LOSSES_FP32_H
#define PULP_LOSSES_FP32_H

#include "pulp_train_utils_fp32.h"

/* output: logits (num_classes); target: a probability for each class (one-hot for a plain label); wr_loss: 1.
 */
struct loss_args {
    struct blob *output;
    float *target;
    float *wr_loss;
};

/* *wr_loss = -sum(target * log_softmax(output.data)). Runs on one core. */
void pulp_CrossEntropyLoss(void *loss_args);

/* output.diff = softmax(output.data) * sum(target) - target. Runs on one core. */
void pulp_CrossEntropyLoss_backward(void *loss_args);

/* *wr_loss = mean((output.data - target)^2). Runs on one core. */
void pulp_MSELoss(void *loss_args);

/* output.diff = 2 (output.data - target) / dim. Runs on one core. */
void pulp_MSELoss_backward(void *loss_args);

#endif
