/* ReLU: plain reference kernels. */

#include "pulp_act_fp32.h"
#include "tcl_split.h"

static void forward(void *args)
{
    struct act_args const *const a = args;
    PORT_CHECK(a->input->dim == a->output->dim);
    int start, stop;
    tcl_split(a->input->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        a->output->data[i] = a->input->data[i] > 0.0f ? a->input->data[i] : 0.0f;
}

static void backward(void *args)
{
    struct act_args const *const a = args;
    PORT_CHECK(a->input->dim == a->output->dim);
    int start, stop;
    tcl_split(a->input->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        a->input->diff[i] = a->input->data[i] > 0.0f ? a->output->diff[i] : 0.0f;
}

void pulp_relu_fp32_fw_cl(void *act_args)
{
    port_fork(forward, act_args);
}

void pulp_relu_fp32_bw_cl(void *act_args)
{
    port_fork(backward, act_args);
}
