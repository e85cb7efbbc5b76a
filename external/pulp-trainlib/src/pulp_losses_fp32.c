/* Losses of one sample. The cross entropy is accurate also where the prediction is nearly certain.

   With m the largest logit, e[i] = exp(z[i] - z[m]) and rest = sum of e[i] but for i = m, the softmax's
   denominator is 1 + rest. Neither "log(1 + rest)" nor "probability - 1" is computed as such: both would lose
   a small rest. */

#include <math.h>

#include "port.h"
#include "pulp_losses_fp32.h"

static int index_of_largest(float const *x, int num)
{
    int m = 0;
    for (int i = 1; i < num; i++)
        m = x[i] > x[m] ? i : m;
    return m;
}

static float sum_of_others(float const *z, int num, int m)
{
    float rest = 0.0f;
    for (int i = 0; i < num; i++)
        rest += i == m ? 0.0f : expf(z[i] - z[m]);
    return rest;
}

void pulp_CrossEntropyLoss(void *loss_args)
{
    struct loss_args const *const a = loss_args;
    float const *const z = a->output->data;
    int const num = a->output->dim;
    PORT_CHECK(num > 0);
    int const m = index_of_largest(z, num);
    float const log_sum = log1pf(sum_of_others(z, num, m));
    float loss = 0.0f;
    for (int i = 0; i < num; i++)
        loss += a->target[i] * (log_sum - (z[i] - z[m]));
    *a->wr_loss = loss;
}

void pulp_CrossEntropyLoss_backward(void *loss_args)
{
    struct loss_args const *const a = loss_args;
    float const *const z = a->output->data;
    int const num = a->output->dim;
    PORT_CHECK(num > 0);
    int const m = index_of_largest(z, num);
    float const rest = sum_of_others(z, num, m);
    float target_sum = 0.0f;
    for (int i = 0; i < num; i++)
        target_sum += a->target[i];
    for (int i = 0; i < num; i++) {
        float const own = i == m ? 1.0f : expf(z[i] - z[m]);
        float const others = i == m ? rest : 1.0f + (rest - own);
        float const target = a->target[i];
        a->output->diff[i] = (own * (target_sum - target) - others * target) / (1.0f + rest);
    }
}

void pulp_MSELoss(void *loss_args)
{
    struct loss_args const *const a = loss_args;
    int const num = a->output->dim;
    PORT_CHECK(num > 0);
    float sum = 0.0f;
    for (int i = 0; i < num; i++) {
        float const difference = a->output->data[i] - a->target[i];
        sum += difference * difference;
    }
    *a->wr_loss = sum / (float)num;
}

void pulp_MSELoss_backward(void *loss_args)
{
    struct loss_args const *const a = loss_args;
    int const num = a->output->dim;
    PORT_CHECK(num > 0);
    for (int i = 0; i < num; i++)
        a->output->diff[i] = 2.0f * (a->output->data[i] - a->target[i]) / (float)num;
}
