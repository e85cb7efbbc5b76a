/* Sum of two tensors: plain reference kernel. */

#include "pulp_train_utils_fp32.h"
#include "tcl_add_fp32.h"
#include "tcl_split.h"

/* Cores share the elements. */
static void add(void *args)
{
    struct tcl_add_args const *const a = args;
    PORT_CHECK(a->first->dim == a->output->dim && a->second->dim == a->output->dim);
    int start, stop;
    tcl_split(a->output->dim, &start, &stop);
    for (int i = start; i < stop; i++)
        a->output->data[i] = a->first->data[i] + a->second->data[i];
}

void tcl_add_fp32_cl(void *tcl_add_args)
{
    port_fork(add, tcl_add_args);
}
