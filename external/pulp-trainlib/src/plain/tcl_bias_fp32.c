/* Bias by channel: plain reference kernels. */

#include "pulp_train_utils_fp32.h"
#include "tcl_bias_fp32.h"
#include "tcl_split.h"

/* Cores share the output elements. */
static void forward(void *args)
{
    struct tcl_bias_args const *const a = args;
    PORT_CHECK(a->bias->dim == a->output->C);
    int const plane = a->output->H * a->output->W;
    int start, stop;
    tcl_split(a->output->C * plane, &start, &stop);
    for (int i = start; i < stop; i++)
        a->output->data[i] += a->bias->data[i / plane];
}

/* Cores share the channels. Rows are summed apart, which keeps the rounding error of large planes small. */
static void param_grads(void *args)
{
    struct tcl_bias_args const *const a = args;
    PORT_CHECK(a->bias->dim == a->output->C);
    int const H = a->output->H, W = a->output->W;
    int start, stop;
    tcl_split(a->output->C, &start, &stop);
    for (int c = start; c < stop; c++) {
        float const *dy = a->output->diff + c * H * W;
        float sum = 0.0f;
        for (int y = 0; y < H; y++, dy += W) {
            float row_sum = 0.0f;
            for (int x = 0; x < W; x++)
                row_sum += dy[x];
            sum += row_sum;
        }
        a->bias->diff[c] = sum;
    }
}

void tcl_bias_fp32_fw_cl(void *tcl_bias_args)
{
    port_fork(forward, tcl_bias_args);
}

void tcl_bias_fp32_bw_param_grads_cl(void *tcl_bias_args)
{
    port_fork(param_grads, tcl_bias_args);
}
