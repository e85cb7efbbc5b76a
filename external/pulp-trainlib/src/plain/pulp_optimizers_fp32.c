/* Gradient descent with weight decay. Cores share the elements. */

#include "pulp_optimizers_fp32.h"
#include "tcl_descend_fp32.h"
#include "tcl_split.h"

static void descend(struct blob const *b, float learning_rate, float weight_decay)
{
    int start, stop;
    tcl_split(b->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        b->data[i] = tcl_descended(b->data[i], b->diff[i], learning_rate, weight_decay);
}

void pulp_gradient_descent_fp32(void *optim_args)
{
    struct optim_args const *const a = optim_args;
    descend(a->weights, a->learning_rate, a->weight_decay_lambda);
    if (a->use_biases)
        descend(a->biases, a->learning_rate, a->weight_decay_lambda);
}
