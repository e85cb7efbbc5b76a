/* Average pooling with padding, CHW: plain reference kernels. Cores share the channels. */

#include "pulp_train_utils_fp32.h"
#include "tcl_avgpool_fp32.h"
#include "tcl_split.h"
#include "tcl_window.h"

/* The part of a window in the input, half-open, and what its sum is divided by. */
struct window {
    int y, y_stop, x, x_stop;
    float num;
};

static void check(struct tcl_avgpool_args const *a)
{
    PORT_CHECK(a->input->C == a->output->C);
    PORT_CHECK(a->Upad < a->Hker && a->Dpad < a->Hker && a->Lpad < a->Wker && a->Rpad < a->Wker);
    PORT_CHECK(a->output->H == (a->input->H + a->Upad + a->Dpad - a->Hker) / a->Hstride + 1);
    PORT_CHECK(a->output->W == (a->input->W + a->Lpad + a->Rpad - a->Wker) / a->Wstride + 1);
}

static struct window window_of(struct tcl_avgpool_args const *a, int oy, int ox)
{
    int const y = oy * a->Hstride - a->Upad, x = ox * a->Wstride - a->Lpad;
    int const H = a->input->H, W = a->input->W;
    struct window w = {
        .y = tcl_max(y, 0),
        .y_stop = tcl_min(y + a->Hker, H),
        .x = tcl_max(x, 0),
        .x_stop = tcl_min(x + a->Wker, W),
    };
    int const rows = a->count_padding ? tcl_min(y + a->Hker, H + a->Upad) - y : w.y_stop - w.y;
    int const columns = a->count_padding ? tcl_min(x + a->Wker, W + a->Lpad) - x : w.x_stop - w.x;
    w.num = (float)(rows * columns);
    return w;
}

void tcl_avgpool_fp32_fw_cl(void *tcl_avgpool_args)
{
    struct tcl_avgpool_args const *const a = tcl_avgpool_args;
    check(a);
    int const W = a->input->W, plane = a->input->H * W, Wo = a->output->W, out_plane = a->output->H * Wo;
    int start, stop;
    tcl_split(a->input->C, &start, &stop);
    for (int i = start * out_plane; i < stop * out_plane; i++) {
        float const *const x = a->input->data + i / out_plane * plane;
        struct window const w = window_of(a, i % out_plane / Wo, i % Wo);
        float sum = 0.0f;
        for (int iy = w.y; iy < w.y_stop; iy++)
            for (int ix = w.x; ix < w.x_stop; ix++)
                sum += x[iy * W + ix];
        a->output->data[i] = sum / w.num;
    }
}

void tcl_avgpool_fp32_bw_cl(void *tcl_avgpool_args)
{
    struct tcl_avgpool_args const *const a = tcl_avgpool_args;
    check(a);
    int const W = a->input->W, plane = a->input->H * W, Wo = a->output->W, out_plane = a->output->H * Wo;
    int start, stop;
    tcl_split(a->input->C, &start, &stop);
    for (int i = start * plane; i < stop * plane; i++)
        a->input->diff[i] = 0.0f;
    for (int i = start * out_plane; i < stop * out_plane; i++) {
        float *const dx = a->input->diff + i / out_plane * plane;
        struct window const w = window_of(a, i % out_plane / Wo, i % Wo);
        float const share = a->output->diff[i] / w.num;
        for (int iy = w.y; iy < w.y_stop; iy++)
            for (int ix = w.x; ix < w.x_stop; ix++)
                dx[iy * W + ix] += share;
    }
}
