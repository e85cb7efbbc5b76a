/* Updates of weights beyond plain gradient descent: momentum, Adam, AdamW, batches, clipping, schedules. */
#ifndef TCL_UPDATE_FP32_H
#define TCL_UPDATE_FP32_H

#include <stdint.h>

struct blob; /* not included: upstream's headers have no guards against a second inclusion */

/* How weights are updated. The first part is constant. The second is that of one step: tcl_rule_at sets it,
   and tcl_clip_fp32 lowers gradient_scale. */
struct tcl_rule {
    float learning_rate;
    float weight_decay;
    float momentum;
    /* Adam and AdamW. rest is 1 - beta, log_beta its logarithm: a float beta near 1 would lose both. */
    float rest1, rest2;
    float log_beta1, log_beta2;
    float epsilon;
    float clip;           /* largest norm of the mean gradient of a batch */
    int batch;            /* samples per update, at least 1 */
    int cosine;           /* the rate falls to 0 over num_updates */
    uint64_t num_updates; /* length of the run */
    uint64_t warmup;      /* updates in which the rate rises linearly */
    float gamma;          /* the rate is multiplied by it at each milestone */
    int num_milestones;
    uint64_t const *milestones; /* updates, counted from 0 */

    int sample;           /* of the batch, counted from 0 */
    float rate;           /* learning rate of this update */
    float gradient_scale; /* what makes the sum of the batch's gradients the gradient: 1 / batch, or less */
    float correction1;    /* 1 - beta1^t of Adam, t updates with this one */
    float correction2;    /* sqrt(1 - beta2^t) */
};

/* Sets what changes from step to step, for the sample with the number num_samples (counted from 0, never
   reset). Nothing else is carried from one step to the next but the tensors: a run may begin anywhere. */
void tcl_rule_at(struct tcl_rule *rule, uint64_t num_samples);

/* weights.diff holds the gradient, or the sum over a batch; it is only read. `first` and `second` have as
   many elements as weights and are zero before the first update. */
struct tcl_update_args {
    struct blob *weights;
    float *first;  /* momentum, NULL for plain SGD; Adam's mean of gradients */
    float *second; /* Adam's mean of squared gradients */
    struct tcl_rule const *rule;
};

/* With g = gradient_scale * diff + weight_decay * data: first = momentum * first + g; data -= rate * first
   (of g without `first`). A body: every core calls it. */
void tcl_sgd_fp32(void *tcl_update_args);

/* With g as above: first += rest1 * (g - first); second += rest2 * (g * g - second); data -= rate *
   (first / correction1) / (sqrt(second) / correction2 + epsilon). A body: every core calls it.
   Source: Kingma and Ba, "Adam", https://arxiv.org/abs/1412.6980, Algorithm 1. */
void tcl_adam_fp32(void *tcl_update_args);

/* As above, but the weights decay beside the gradient: g = gradient_scale * diff, and data -= rate *
   weight_decay * data too. A body: every core calls it. Source: Loshchilov and Hutter, "Decoupled Weight
   Decay Regularization", https://arxiv.org/abs/1711.05101, Algorithm 2, with the decay scaled by the rate as
   torch.optim.AdamW does. */
void tcl_adamw_fp32(void *tcl_update_args);

/* sum has as many elements as weights. */
struct tcl_accumulate_args {
    struct blob *weights;
    float *sum;
    struct tcl_rule const *rule;
};

/* sum += weights.diff; the first sample of a batch overwrites it. A body: every core calls it. */
void tcl_accumulate_fp32(void *tcl_accumulate_args);

/* Squares are summed in blocks whose number does not depend on that of the cores. */
enum { TCL_NORM_BLOCKS = 16 };

/* sums: TCL_NORM_BLOCKS for each parameter, of which this is number `index`. */
struct tcl_norm_args {
    struct blob *weights;
    float *sums;
    int index;
};

/* sums[index * TCL_NORM_BLOCKS + b] = sum of weights.diff^2 in block b. A body: every core calls it. */
void tcl_squared_norm_fp32(void *tcl_norm_args);

struct tcl_clip_args {
    float const *sums;
    int num_sums;
    struct tcl_rule *rule;
};

/* Lowers gradient_scale to gradient_scale * clip / (norm + 1e-6) if that is less, norm being that of the
   scaled gradients. Runs on one core. */
void tcl_clip_fp32(void *tcl_clip_args);

#endif
