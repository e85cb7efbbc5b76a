/* Fully connected layer: plain reference kernels. */

#include "pulp_linear_fp32.h"
#include "tcl_split.h"

static void check(struct Linear_args const *a)
{
    PORT_CHECK(a->coeff->dim == a->input->dim * a->output->dim);
    PORT_CHECK(!a->use_biases || a->bias->dim == a->output->dim);
}

/* Cores share the outputs. */
static void forward(void *args)
{
    struct Linear_args const *const a = args;
    check(a);
    int const num_in = a->input->dim;
    int start, stop;
    tcl_split(a->output->dim, &start, &stop);
    for (int o = start; o < stop; o++) {
        float sum = 0.0f;
        for (int i = 0; i < num_in; i++)
            sum += a->coeff->data[o * num_in + i] * a->input->data[i];
        a->output->data[o] = a->use_biases ? sum + a->bias->data[o] : sum;
    }
}

/* Cores share the weights, then the biases; gradients that nobody keeps are not computed. */
static void param_grads(void *args)
{
    struct Linear_args const *const a = args;
    check(a);
    int const num_in = a->input->dim;
    int start, stop;
    tcl_split(a->coeff->diff ? a->coeff->dim : 0, &start, &stop);
    for (int i = start; i < stop; i++)
        a->coeff->diff[i] = a->output->diff[i / num_in] * a->input->data[i % num_in];
    tcl_split(a->use_biases && a->bias->diff ? a->output->dim : 0, &start, &stop);
    for (int o = start; o < stop; o++)
        a->bias->diff[o] = a->output->diff[o];
}

/* Cores share the inputs. */
static void input_grads(void *args)
{
    struct Linear_args const *const a = args;
    check(a);
    int const num_in = a->input->dim, num_out = a->output->dim;
    int start, stop;
    tcl_split(num_in, &start, &stop);
    for (int i = start; i < stop; i++) {
        float sum = 0.0f;
        for (int o = 0; o < num_out; o++)
            sum += a->coeff->data[o * num_in + i] * a->output->diff[o];
        a->input->diff[i] = sum;
    }
}

void pulp_linear_fp32_fw_cl(void *Linear_args)
{
    port_fork(forward, Linear_args);
}

void pulp_linear_fp32_bw_param_grads_cl(void *Linear_args)
{
    port_fork(param_grads, Linear_args);
}

void pulp_linear_fp32_bw_input_grads_cl(void *Linear_args)
{
    port_fork(input_grads, Linear_args);
}

void pulp_linear_fp32_bw_cl(void *Linear_args)
{
    struct Linear_args const *const a = Linear_args;
    if (!a->skip_wg_grad)
        pulp_linear_fp32_bw_param_grads_cl(Linear_args);
    if (!a->skip_in_grad)
        pulp_linear_fp32_bw_input_grads_cl(Linear_args);
}
