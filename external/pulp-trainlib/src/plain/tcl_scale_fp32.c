/* Product with a factor for each channel: plain reference kernels. Cores share the elements, for the factor's
   gradient the channels. */

#include "pulp_train_utils_fp32.h"
#include "tcl_scale_fp32.h"
#include "tcl_split.h"

/* The number of elements of a channel. */
static int plane_of(struct tcl_scale_args const *a)
{
    PORT_CHECK(a->input->dim == a->output->dim);
    PORT_CHECK(a->factor->dim > 0 && a->input->dim % a->factor->dim == 0);
    return a->input->dim / a->factor->dim;
}

static void scale(float const *x, float const *factor, float *y, int dim, int plane)
{
    int start, stop;
    tcl_split(dim, &start, &stop);
    for (int i = start; i < stop;) {
        float const f = factor[i / plane];
        int const next = (i / plane + 1) * plane;
        for (; i < stop && i < next; i++)
            y[i] = x[i] * f;
    }
}

void tcl_scale_fp32_fw_cl(void *tcl_scale_args)
{
    struct tcl_scale_args const *const a = tcl_scale_args;
    scale(a->input->data, a->factor->data, a->output->data, a->input->dim, plane_of(a));
}

void tcl_scale_fp32_bw_input_grads_cl(void *tcl_scale_args)
{
    struct tcl_scale_args const *const a = tcl_scale_args;
    scale(a->output->diff, a->factor->data, a->input->diff, a->input->dim, plane_of(a));
}

void tcl_scale_fp32_bw_factor_grads_cl(void *tcl_scale_args)
{
    struct tcl_scale_args const *const a = tcl_scale_args;
    int const plane = plane_of(a);
    int start, stop;
    tcl_split(a->factor->dim, &start, &stop);
    for (int c = start; c < stop; c++)
        a->factor->diff[c] =
            tcl_sum_of_products(a->output->diff + c * plane, a->input->data + c * plane, plane);
}
