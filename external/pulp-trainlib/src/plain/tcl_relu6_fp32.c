/* ReLU6: plain reference kernels. Cores share the elements. */

#include "pulp_train_utils_fp32.h"
#include "tcl_act_fp32.h"
#include "tcl_relu6_fp32.h"
#include "tcl_split.h"

static void forward(void *args)
{
    struct tcl_relu6_args const *const a = args;
    PORT_CHECK(a->input->dim == a->output->dim);
    int start, stop;
    tcl_split(a->input->dim, &start, &stop);
    for (int i = start; i < stop; i++) {
        float const x = a->input->data[i];
        a->output->data[i] = x > 0.0f ? (x < TCL_SIX ? x : TCL_SIX) : 0.0f;
    }
}

static void backward(void *args)
{
    struct tcl_relu6_args const *const a = args;
    PORT_CHECK(a->input->dim == a->output->dim);
    int start, stop;
    tcl_split(a->input->dim, &start, &stop);
    for (int i = start; i < stop; i++) {
        float const x = a->input->data[i];
        a->input->diff[i] = x > 0.0f && x < TCL_SIX ? a->output->diff[i] : 0.0f;
    }
}

void tcl_relu6_fp32_fw_cl(void *tcl_relu6_args)
{
    port_fork(forward, tcl_relu6_args);
}

void tcl_relu6_fp32_bw_cl(void *tcl_relu6_args)
{
    port_fork(backward, tcl_relu6_args);
}
