/* Activations beside ReLU and ReLU6: plain reference kernels. Cores share the elements. */

#include "pulp_train_utils_fp32.h"
#include "tcl_activations_fp32.h"
#include "tcl_exp.h"
#include "tcl_split.h"

/* A function of one element and the layer's slope, which most do not use. */
typedef float (*function)(float value, float slope);

static inline void forward(struct tcl_activation_args const *a, function f)
{
    PORT_CHECK(a->input->dim == a->output->dim);
    int start, stop;
    tcl_split(a->input->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        a->output->data[i] = f(a->input->data[i], a->slope);
}

/* The derivative is a function of `values`, data of the input or of the output. */
static inline void backward(struct tcl_activation_args const *a, float const *values, function derivative)
{
    PORT_CHECK(a->input->dim == a->output->dim);
    int start, stop;
    tcl_split(a->input->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        a->input->diff[i] = a->output->diff[i] * derivative(values[i], a->slope);
}

/* The exponential is taken of a negative number: it cannot overflow, and is small where it matters least. */
static inline float sigmoid(float x, float slope)
{
    (void)slope;
    float const e = tcl_exp_of_negative(x > 0.0f ? -x : x);
    return (x > 0.0f ? 1.0f : e) / (1.0f + e);
}

static inline float sigmoid_derivative(float y, float slope)
{
    (void)slope;
    return y * (1.0f - y);
}

static inline float silu(float x, float slope)
{
    return x * sigmoid(x, slope);
}

static inline float silu_derivative(float x, float slope)
{
    /* 1 - sigmoid(x) = sigmoid(-x) keeps its relative precision. */
    return sigmoid(x, slope) * (1.0f + x * sigmoid(-x, slope));
}

static inline float hardsigmoid(float x, float slope)
{
    (void)slope;
    float const y = (x + 3.0f) * (1.0f / 6);
    return y > 0.0f ? (y < 1.0f ? y : 1.0f) : 0.0f;
}

static inline float hardsigmoid_derivative(float y, float slope)
{
    (void)slope;
    return y > 0.0f && y < 1.0f ? 1.0f / 6 : 0.0f;
}

static inline float hardswish(float x, float slope)
{
    return x * hardsigmoid(x, slope);
}

static inline float hardswish_derivative(float x, float slope)
{
    (void)slope;
    return x > -3.0f ? (x < 3.0f ? x * (1.0f / 3) + 0.5f : 1.0f) : 0.0f;
}

static inline float leaky_relu(float x, float slope)
{
    return x > 0.0f ? x : slope * x;
}

static inline float leaky_relu_derivative(float y, float slope)
{
    return y > 0.0f ? 1.0f : slope;
}

void tcl_sigmoid_fp32_fw_cl(void *tcl_activation_args)
{
    forward(tcl_activation_args, sigmoid);
}

void tcl_sigmoid_fp32_bw_cl(void *tcl_activation_args)
{
    struct tcl_activation_args const *const a = tcl_activation_args;
    backward(a, a->output->data, sigmoid_derivative);
}

void tcl_silu_fp32_fw_cl(void *tcl_activation_args)
{
    forward(tcl_activation_args, silu);
}

void tcl_silu_fp32_bw_cl(void *tcl_activation_args)
{
    struct tcl_activation_args const *const a = tcl_activation_args;
    backward(a, a->input->data, silu_derivative);
}

void tcl_hardsigmoid_fp32_fw_cl(void *tcl_activation_args)
{
    forward(tcl_activation_args, hardsigmoid);
}

void tcl_hardsigmoid_fp32_bw_cl(void *tcl_activation_args)
{
    struct tcl_activation_args const *const a = tcl_activation_args;
    backward(a, a->output->data, hardsigmoid_derivative);
}

void tcl_hardswish_fp32_fw_cl(void *tcl_activation_args)
{
    forward(tcl_activation_args, hardswish);
}

void tcl_hardswish_fp32_bw_cl(void *tcl_activation_args)
{
    struct tcl_activation_args const *const a = tcl_activation_args;
    backward(a, a->input->data, hardswish_derivative);
}

void tcl_leaky_relu_fp32_fw_cl(void *tcl_activation_args)
{
    struct tcl_activation_args const *const a = tcl_activation_args;
    PORT_CHECK(a->slope >= 0.0f);
    forward(a, leaky_relu);
}

void tcl_leaky_relu_fp32_bw_cl(void *tcl_activation_args)
{
    struct tcl_activation_args const *const a = tcl_activation_args;
    PORT_CHECK(a->slope >= 0.0f);
    backward(a, a->output->data, leaky_relu_derivative);
}
