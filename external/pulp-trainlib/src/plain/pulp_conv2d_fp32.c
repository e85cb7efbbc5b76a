/* 2D convolution, CHW: plain reference kernels. */

#include "pulp_conv2d_fp32.h"
#include "tcl_split.h"
#include "tcl_window.h"

static struct tcl_window window_of(struct Conv2D_args const *a)
{
    int const pad[4] = {a->Lpad, a->Rpad, a->Upad, a->Dpad};
    PORT_CHECK(a->HWC == 0);
    PORT_CHECK(a->coeff->dim == a->output->C * a->input->C * a->coeff->H * a->coeff->W);
    return tcl_window_of(a->input, a->coeff, a->output, pad, a->stride_h, a->stride_w);
}

/* Cores share the output elements. */
static void forward(void *args)
{
    struct Conv2D_args const *const a = args;
    struct tcl_window const w = window_of(a);
    int const num_in = a->input->C, in_plane = w.H * w.W, out_plane = w.Ho * w.Wo, kernel = w.kh * w.kw;
    int start, stop;
    tcl_split(a->output->C * out_plane, &start, &stop);
    for (int i = start; i < stop; i++) {
        int const co = i / out_plane, oy = i % out_plane / w.Wo, ox = i % w.Wo;
        float sum = a->USE_BIASES ? a->bias->data[co] : 0.0f;
        for (int ci = 0; ci < num_in; ci++)
            sum += tcl_window_fw(&w, a->input->data + ci * in_plane,
                                 a->coeff->data + (co * num_in + ci) * kernel, oy, ox);
        a->output->data[i] = sum;
    }
}

/* Cores share the weights. */
static void weight_grads(void *args)
{
    struct Conv2D_args const *const a = args;
    struct tcl_window const w = window_of(a);
    int const num_in = a->input->C, in_plane = w.H * w.W, out_plane = w.Ho * w.Wo, kernel = w.kh * w.kw;
    int start, stop;
    tcl_split(a->coeff->dim, &start, &stop);
    for (int i = start; i < stop; i++) {
        int const co = i / kernel / num_in, ci = i / kernel % num_in;
        a->coeff->diff[i] = tcl_window_wg(&w, a->input->data + ci * in_plane,
                                          a->output->diff + co * out_plane, i % kernel / w.kw, i % w.kw);
    }
}

/* Cores share the channels. Rows are summed apart, which keeps the rounding error of large planes small. */
static void bias_grads(void *args)
{
    struct Conv2D_args const *const a = args;
    int const Ho = a->output->H, Wo = a->output->W;
    int start, stop;
    PORT_CHECK(a->bias->dim == a->output->C);
    tcl_split(a->output->C, &start, &stop);
    for (int co = start; co < stop; co++) {
        float sum = 0.0f;
        for (int oy = 0; oy < Ho; oy++) {
            float row_sum = 0.0f;
            for (int ox = 0; ox < Wo; ox++)
                row_sum += a->output->diff[(co * Ho + oy) * Wo + ox];
            sum += row_sum;
        }
        a->bias->diff[co] = sum;
    }
}

static void param_grads(void *args)
{
    struct Conv2D_args const *const a = args;
    if (a->coeff->diff)
        weight_grads(args);
    if (a->USE_BIASES && a->bias->diff)
        bias_grads(args);
}

/* Cores share the input elements. */
static void input_grads(void *args)
{
    struct Conv2D_args const *const a = args;
    struct tcl_window const w = window_of(a);
    int const num_in = a->input->C, in_plane = w.H * w.W, out_plane = w.Ho * w.Wo, kernel = w.kh * w.kw;
    int start, stop;
    tcl_split(num_in * in_plane, &start, &stop);
    for (int i = start; i < stop; i++) {
        int const ci = i / in_plane, iy = i % in_plane / w.W, ix = i % w.W;
        float sum = 0.0f;
        for (int co = 0; co < a->output->C; co++)
            sum += tcl_window_ig(&w, a->output->diff + co * out_plane,
                                 a->coeff->data + (co * num_in + ci) * kernel, iy, ix);
        a->input->diff[i] = sum;
    }
}

void pulp_conv2d_fp32_fw_cl(void *Conv2D_args)
{
    port_fork(forward, Conv2D_args);
}

void pulp_conv2d_fp32_bw_param_grads_cl(void *Conv2D_args)
{
    port_fork(param_grads, Conv2D_args);
}

void pulp_conv2d_fp32_bw_input_grads_cl(void *Conv2D_args)
{
    port_fork(input_grads, Conv2D_args);
}

void pulp_conv2d_fp32_bw_cl(void *Conv2D_args)
{
    struct Conv2D_args const *const a = Conv2D_args;
    if (!a->skip_wg_grad)
        pulp_conv2d_fp32_bw_param_grads_cl(Conv2D_args);
    if (!a->skip_in_grad)
        pulp_conv2d_fp32_bw_input_grads_cl(Conv2D_args);
}
