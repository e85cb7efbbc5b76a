/* Maximum pooling, CHW: plain reference kernels. Cores share the channels. */

#include "pulp_train_utils_fp32.h"
#include "tcl_maxpool_fp32.h"
#include "tcl_split.h"

static void check(struct tcl_maxpool_args const *a)
{
    PORT_CHECK(a->input->C == a->output->C);
    PORT_CHECK(a->Upad < a->Hker && a->Dpad < a->Hker && a->Lpad < a->Wker && a->Rpad < a->Wker);
    PORT_CHECK(a->output->H == (a->input->H + a->Upad + a->Dpad - a->Hker) / a->Hstride + 1);
    PORT_CHECK(a->output->W == (a->input->W + a->Lpad + a->Rpad - a->Wker) / a->Wstride + 1);
}

/* The index in plane x of the first maximum of the window of output (oy, ox). */
static int largest(struct tcl_maxpool_args const *a, float const *x, int oy, int ox)
{
    int const H = a->input->H, W = a->input->W;
    int const y0 = oy * a->Hstride - a->Upad, x0 = ox * a->Wstride - a->Lpad;
    int const y_first = y0 > 0 ? y0 : 0, x_first = x0 > 0 ? x0 : 0;
    int const y_stop = y0 + a->Hker < H ? y0 + a->Hker : H;
    int const x_stop = x0 + a->Wker < W ? x0 + a->Wker : W;
    int best = y_first * W + x_first;
    for (int iy = y_first; iy < y_stop; iy++)
        for (int ix = x_first; ix < x_stop; ix++)
            if (x[iy * W + ix] > x[best])
                best = iy * W + ix;
    return best;
}

static void forward(void *args)
{
    struct tcl_maxpool_args const *const a = args;
    check(a);
    int const plane = a->input->H * a->input->W, Wo = a->output->W, out_plane = a->output->H * Wo;
    int start, stop;
    tcl_split(a->input->C, &start, &stop);
    for (int i = start * out_plane; i < stop * out_plane; i++) {
        float const *const x = a->input->data + i / out_plane * plane;
        a->output->data[i] = x[largest(a, x, i % out_plane / Wo, i % Wo)];
    }
}

static void backward(void *args)
{
    struct tcl_maxpool_args const *const a = args;
    check(a);
    int const plane = a->input->H * a->input->W, Wo = a->output->W, out_plane = a->output->H * Wo;
    int start, stop;
    tcl_split(a->input->C, &start, &stop);
    for (int i = start * plane; i < stop * plane; i++)
        a->input->diff[i] = 0.0f;
    for (int i = start * out_plane; i < stop * out_plane; i++) {
        int const corner = i / out_plane * plane;
        int const from = largest(a, a->input->data + corner, i % out_plane / Wo, i % Wo);
        a->input->diff[corner + from] += a->output->diff[i];
    }
}

void tcl_maxpool_fp32_fw_cl(void *tcl_maxpool_args)
{
    port_fork(forward, tcl_maxpool_args);
}

void tcl_maxpool_fp32_bw_cl(void *tcl_maxpool_args)
{
    port_fork(backward, tcl_maxpool_args);
}
