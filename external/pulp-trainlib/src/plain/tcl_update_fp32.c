/* Updates of weights: plain reference kernels. Cores share the elements. */

#include <math.h>

#include "port.h"
#include "pulp_train_utils_fp32.h"
#include "tcl_split.h"
#include "tcl_update_fp32.h"

#define HALF_PI 1.57079632679489662f

/* 0.5 (1 + cos(pi u / n)) = sin^2(pi/2 (n - u) / n), which keeps its relative precision near the end. */
static float cosine(uint64_t update, uint64_t num_updates)
{
    if (update >= num_updates)
        return 0.0f;
    float const s = sinf(HALF_PI * ((float)(num_updates - update) / (float)num_updates));
    return s * s;
}

static float rate_at(struct tcl_rule const *r, uint64_t update)
{
    float rate = r->learning_rate;
    if (r->cosine)
        rate *= cosine(update, r->num_updates);
    for (int i = 0; i < r->num_milestones; i++)
        rate *= update >= r->milestones[i] ? r->gamma : 1.0f;
    if (update + 1 < r->warmup)
        rate *= (float)(update + 1) / (float)r->warmup;
    return rate;
}

void tcl_rule_at(struct tcl_rule *r, uint64_t num_samples)
{
    PORT_CHECK(r->batch >= 1);
    uint64_t const update = num_samples / (uint64_t)r->batch;
    float const t = (float)(update + 1);
    r->sample = (int)(num_samples % (uint64_t)r->batch);
    r->rate = rate_at(r, update);
    r->gradient_scale = 1.0f / (float)r->batch;
    r->correction1 = -expm1f(t * r->log_beta1);
    r->correction2 = sqrtf(-expm1f(t * r->log_beta2));
}

void tcl_sgd_fp32(void *tcl_update_args)
{
    struct tcl_update_args const *const a = tcl_update_args;
    struct tcl_rule const *const r = a->rule;
    float *const data = a->weights->data;
    float const *const diff = a->weights->diff;
    int start, stop;
    tcl_split(a->weights->dim, &start, &stop);
    for (int i = start; i < stop; i++) {
        float step = r->gradient_scale * diff[i] + r->weight_decay * data[i];
        if (a->first) {
            step += r->momentum * a->first[i];
            a->first[i] = step;
        }
        data[i] -= r->rate * step;
    }
}

void tcl_adam_fp32(void *tcl_update_args)
{
    struct tcl_update_args const *const a = tcl_update_args;
    struct tcl_rule const *const r = a->rule;
    PORT_CHECK(a->first && a->second);
    float *const data = a->weights->data;
    float const *const diff = a->weights->diff;
    float const rate = r->rate / r->correction1;
    int start, stop;
    tcl_split(a->weights->dim, &start, &stop);
    for (int i = start; i < stop; i++) {
        float const g = r->gradient_scale * diff[i] + r->weight_decay * data[i];
        a->first[i] += r->rest1 * (g - a->first[i]);
        a->second[i] += r->rest2 * (g * g - a->second[i]);
        data[i] -= rate * a->first[i] / (sqrtf(a->second[i]) / r->correction2 + r->epsilon);
    }
}

void tcl_adamw_fp32(void *tcl_update_args)
{
    struct tcl_update_args const *const a = tcl_update_args;
    struct tcl_rule const *const r = a->rule;
    PORT_CHECK(a->first && a->second);
    float *const data = a->weights->data;
    float const *const diff = a->weights->diff;
    float const rate = r->rate / r->correction1, decay = r->rate * r->weight_decay;
    int start, stop;
    tcl_split(a->weights->dim, &start, &stop);
    for (int i = start; i < stop; i++) {
        float const g = r->gradient_scale * diff[i];
        a->first[i] += r->rest1 * (g - a->first[i]);
        a->second[i] += r->rest2 * (g * g - a->second[i]);
        data[i] -= decay * data[i] + rate * a->first[i] / (sqrtf(a->second[i]) / r->correction2 + r->epsilon);
    }
}

void tcl_accumulate_fp32(void *tcl_accumulate_args)
{
    struct tcl_accumulate_args const *const a = tcl_accumulate_args;
    float const *const diff = a->weights->diff;
    int start, stop;
    tcl_split(a->weights->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        a->sum[i] = a->rule->sample == 0 ? diff[i] : a->sum[i] + diff[i];
}

/* Runs of 64 are summed apart, which keeps the rounding error of large blocks small. */
static float sum_of_squares(float const *x, int num)
{
    float sum = 0.0f;
    for (int i = 0; i < num;) {
        int const stop = num - i < 64 ? num : i + 64;
        float run = 0.0f;
        for (; i < stop; i++)
            run += x[i] * x[i];
        sum += run;
    }
    return sum;
}

/* Cores share the blocks. */
void tcl_squared_norm_fp32(void *tcl_norm_args)
{
    struct tcl_norm_args const *const a = tcl_norm_args;
    int const each = a->weights->dim / TCL_NORM_BLOCKS;
    int const rest = a->weights->dim % TCL_NORM_BLOCKS;
    int start, stop;
    tcl_split(TCL_NORM_BLOCKS, &start, &stop);
    for (int b = start; b < stop; b++) {
        int const begin = b * each + (b < rest ? b : rest);
        a->sums[a->index * TCL_NORM_BLOCKS + b] =
            sum_of_squares(a->weights->diff + begin, each + (b < rest ? 1 : 0));
    }
}

void tcl_clip_fp32(void *tcl_clip_args)
{
    struct tcl_clip_args const *const a = tcl_clip_args;
    float sum = 0.0f;
    for (int i = 0; i < a->num_sums; i++)
        sum += a->sums[i];
    float const norm = a->rule->gradient_scale * sqrtf(sum);
    float const factor = a->rule->clip / (norm + 1e-6f);
    if (factor < 1.0f)
        a->rule->gradient_scale *= factor;
}
