/* Losses of one sample. The cross entropy is accurate also where the prediction is nearly certain.

   With m the largest logit, e[i] = exp(z[i] - z[m]) and rest = sum of e[i] but for i = m, the softmax's
   denominator is 1 + rest. Neither "log(1 + rest)" nor "probability - 1" is computed as such: both would lose
   a small rest. */

#include <float.h>

#include "port.h"
#include "pulp_losses_fp32.h"
#include "tcl_exp.h"

/* log(1 + x) for x >= 0, within 3e-7 of the value, relatively: 1 + x = 2^k (1 + f) with f between sqrt(1/2) -
   1 and sqrt(2) - 1, and with s = f / (2 + f) log(1 + f) = 2 (s + s^3 / 3 + s^5 / 5 + ...). */
static float log_of_one_and(float x)
{
    if (!(x <= FLT_MAX))
        return x;
    int k = 0;
    float f = x, lost = 0.0f;
    if (x > 0.41421354f) {
        union tcl_bits sum = {1.0f + x};
        lost = (x - (sum.value - 1.0f)) / sum.value; /* by rounding 1 + x */
        k = (int)(sum.word - 0x3f3504f3u) >> 23;     /* the bits of sqrt(1/2) */
        sum.word -= (uint32_t)k << 23;
        f = sum.value - 1.0f;
    }
    float const s = f / (2.0f + f), z = s * s;
    float const rest = s * z * (2.0f / 3 + z * (2.0f / 5 + z * (2.0f / 7 + z * (2.0f / 9))));
    return (float)k * TCL_LN2_HIGH + ((float)k * TCL_LN2_LOW + lost + rest + 2.0f * s);
}

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
        rest += i == m ? 0.0f : tcl_exp_of_negative(z[i] - z[m]);
    return rest;
}

void pulp_CrossEntropyLoss(void *loss_args)
{
    struct loss_args const *const a = loss_args;
    float const *const z = a->output->data;
    int const num = a->output->dim;
    PORT_CHECK(num > 0);
    int const m = index_of_largest(z, num);
    float const log_sum = log_of_one_and(sum_of_others(z, num, m));
    float loss = 0.0f;
    for (int i = 0; i < num; i++)
        loss += a->target[i] * (log_sum - (z[i] - z[m]));
    *a->wr_loss = loss;
}

void pulp_CrossEntropyLoss_backward(void *loss_args)
{
    struct loss_args const *const a = loss_args;
    float const *const z = a->output->data;
    float *const diff = a->output->diff;
    int const num = a->output->dim;
    PORT_CHECK(num > 0);
    int const m = index_of_largest(z, num);
    float const largest = z[m];
    float rest = 0.0f, target_sum = 0.0f;
    for (int i = 0; i < num; i++) {
        diff[i] = i == m ? 1.0f : tcl_exp_of_negative(z[i] - largest);
        rest += i == m ? 0.0f : diff[i];
        target_sum += a->target[i];
    }
    for (int i = 0; i < num; i++) {
        float const own = diff[i], target = a->target[i];
        float const others = i == m ? rest : 1.0f + (rest - own);
        diff[i] = (own * (target_sum - target) - others * target) / (1.0f + rest);
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
