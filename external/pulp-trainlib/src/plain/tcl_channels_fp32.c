/* Joining, slicing and shuffling channels: plain reference kernels. Cores share the elements that are
 * written. */

#include "pulp_train_utils_fp32.h"
#include "tcl_channels_fp32.h"
#include "tcl_split.h"

static void join_forward(void *args)
{
    struct tcl_join_args const *const a = args;
    PORT_CHECK(a->first >= 0 && a->first + a->input->dim <= a->output->dim);
    int start, stop;
    tcl_split(a->input->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        a->output->data[a->first + i] = a->input->data[i];
}

static void join_backward(void *args)
{
    struct tcl_join_args const *const a = args;
    PORT_CHECK(a->first >= 0 && a->first + a->input->dim <= a->output->dim);
    int start, stop;
    tcl_split(a->input->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        a->input->diff[i] = a->output->diff[a->first + i];
}

static void slice_forward(void *args)
{
    struct tcl_slice_args const *const a = args;
    PORT_CHECK(a->first >= 0 && a->first + a->output->dim <= a->input->dim);
    int start, stop;
    tcl_split(a->output->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        a->output->data[i] = a->input->data[a->first + i];
}

static void slice_backward(void *args)
{
    struct tcl_slice_args const *const a = args;
    PORT_CHECK(a->first >= 0 && a->first + a->output->dim <= a->input->dim);
    int start, stop;
    tcl_split(a->input->dim, &start, &stop);
    for (int i = start; i < stop; i++) {
        int const place = i - a->first;
        a->input->diff[i] = place >= 0 && place < a->output->dim ? a->output->diff[place] : 0.0f;
    }
}

/* The input's channel that is the output's channel c. */
static int shuffled(struct tcl_shuffle_args const *a, int c)
{
    return c % a->groups * (a->output->C / a->groups) + c / a->groups;
}

static void check_shuffle(struct tcl_shuffle_args const *a)
{
    PORT_CHECK(a->input->dim == a->output->dim && a->input->C == a->output->C);
    PORT_CHECK(a->groups > 0 && a->output->C % a->groups == 0);
}

static void shuffle_forward(void *args)
{
    struct tcl_shuffle_args const *const a = args;
    check_shuffle(a);
    int const plane = a->output->H * a->output->W;
    int start, stop;
    tcl_split(a->output->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        a->output->data[i] = a->input->data[shuffled(a, i / plane) * plane + i % plane];
}

/* Each input channel is exactly one output channel: the walk over outputs writes every input once. */
static void shuffle_backward(void *args)
{
    struct tcl_shuffle_args const *const a = args;
    check_shuffle(a);
    int const plane = a->output->H * a->output->W;
    int start, stop;
    tcl_split(a->output->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        a->input->diff[shuffled(a, i / plane) * plane + i % plane] = a->output->diff[i];
}

void tcl_join_fp32_fw_cl(void *tcl_join_args)
{
    port_fork(join_forward, tcl_join_args);
}

void tcl_join_fp32_bw_cl(void *tcl_join_args)
{
    port_fork(join_backward, tcl_join_args);
}

void tcl_slice_fp32_fw_cl(void *tcl_slice_args)
{
    port_fork(slice_forward, tcl_slice_args);
}

void tcl_slice_fp32_bw_cl(void *tcl_slice_args)
{
    port_fork(slice_backward, tcl_slice_args);
}

void tcl_shuffle_fp32_fw_cl(void *tcl_shuffle_args)
{
    port_fork(shuffle_forward, tcl_shuffle_args);
}

void tcl_shuffle_fp32_bw_cl(void *tcl_shuffle_args)
{
    port_fork(shuffle_backward, tcl_shuffle_args);
}
