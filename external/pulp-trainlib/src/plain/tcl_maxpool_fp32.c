/* Maximum pooling, CHW: plain reference kernels. Cores share the channels. */

#include "pulp_train_utils_fp32.h"
#include "tcl_maxpool_fp32.h"
#include "tcl_split.h"
#include "tcl_window.h"

static struct tcl_window checked_window(struct tcl_maxpool_args const *a)
{
    PORT_CHECK(a->input->C == a->output->C);
    PORT_CHECK(a->Upad < a->Hker && a->Dpad < a->Hker && a->Lpad < a->Wker && a->Rpad < a->Wker);
    PORT_CHECK(a->output->H == (a->input->H + a->Upad + a->Dpad - a->Hker) / a->Hstride + 1);
    PORT_CHECK(a->output->W == (a->input->W + a->Lpad + a->Rpad - a->Wker) / a->Wstride + 1);
    return (struct tcl_window){
        .H = a->input->H,
        .W = a->input->W,
        .Ho = a->output->H,
        .Wo = a->output->W,
        .kh = a->Hker,
        .kw = a->Wker,
        .stride_h = a->Hstride,
        .stride_w = a->Wstride,
        .pad_top = a->Upad,
        .pad_left = a->Lpad,
    };
}

static void forward(void *args)
{
    struct tcl_maxpool_args const *const a = args;
    struct tcl_window const window = checked_window(a);
    int const plane = a->input->H * a->input->W, Wo = a->output->W, out_plane = a->output->H * Wo;
    int start, stop;
    tcl_split(a->input->C, &start, &stop);
    for (int i = start * out_plane; i < stop * out_plane; i++) {
        float const *const x = a->input->data + i / out_plane * plane;
        a->output->data[i] = x[tcl_window_largest(&window, x, i % out_plane / Wo, i % Wo)];
    }
}

static void backward(void *args)
{
    struct tcl_maxpool_args const *const a = args;
    struct tcl_window const window = checked_window(a);
    int const plane = a->input->H * a->input->W, Wo = a->output->W, out_plane = a->output->H * Wo;
    int start, stop;
    tcl_split(a->input->C, &start, &stop);
    for (int i = start * plane; i < stop * plane; i++)
        a->input->diff[i] = 0.0f;
    for (int i = start * out_plane; i < stop * out_plane; i++) {
        int const corner = i / out_plane * plane;
        int const from = tcl_window_largest(&window, a->input->data + corner, i % out_plane / Wo, i % Wo);
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
