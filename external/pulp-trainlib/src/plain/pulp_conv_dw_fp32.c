/* Depthwise convolution, CHW: plain reference kernels. */

#include "pulp_conv_dw_fp32.h"
#include "tcl_split.h"
#include "tcl_window.h"

static struct tcl_window window_of(struct DepthWise_Conv_args const *a)
{
    int const pad[4] = {a->Lpad, a->Rpad, a->Upad, a->Dpad};
    PORT_CHECK(a->HWC == 0);
    PORT_CHECK(a->input->C == a->output->C && a->coeff->dim == a->input->C * a->coeff->H * a->coeff->W);
    return tcl_window_of(a->input, a->coeff, a->output, pad, a->stride_h, a->stride_w);
}

/* Cores share the output elements. */
static void forward(void *args)
{
    struct DepthWise_Conv_args const *const a = args;
    struct tcl_window const w = window_of(a);
    int const in_plane = w.H * w.W, out_plane = w.Ho * w.Wo, kernel = w.kh * w.kw;
    int start, stop;
    tcl_split(a->output->C * out_plane, &start, &stop);
    for (int i = start; i < stop; i++) {
        int const c = i / out_plane, oy = i % out_plane / w.Wo, ox = i % w.Wo;
        a->output->data[i] =
            tcl_window_fw(&w, a->input->data + c * in_plane, a->coeff->data + c * kernel, oy, ox);
    }
}

/* Cores share the weights. */
static void param_grads(void *args)
{
    struct DepthWise_Conv_args const *const a = args;
    struct tcl_window const w = window_of(a);
    int const in_plane = w.H * w.W, out_plane = w.Ho * w.Wo, kernel = w.kh * w.kw;
    int start, stop;
    tcl_split(a->coeff->dim, &start, &stop);
    for (int i = start; i < stop; i++) {
        int const c = i / kernel, ky = i % kernel / w.kw, kx = i % kernel % w.kw;
        a->coeff->diff[i] =
            tcl_window_wg(&w, a->input->data + c * in_plane, a->output->diff + c * out_plane, ky, kx);
    }
}

/* Cores share the input elements. */
static void input_grads(void *args)
{
    struct DepthWise_Conv_args const *const a = args;
    struct tcl_window const w = window_of(a);
    int const in_plane = w.H * w.W, out_plane = w.Ho * w.Wo, kernel = w.kh * w.kw;
    int start, stop;
    tcl_split(a->input->C * in_plane, &start, &stop);
    for (int i = start; i < stop; i++) {
        int const c = i / in_plane, iy = i % in_plane / w.W, ix = i % w.W;
        a->input->diff[i] =
            tcl_window_ig(&w, a->output->diff + c * out_plane, a->coeff->data + c * kernel, iy, ix);
    }
}

void pulp_conv_dw_fp32_fw_cl(void *DepthWise_Conv_args)
{
    port_fork(forward, DepthWise_Conv_args);
}

void pulp_conv_dw_fp32_bw_param_grads_cl(void *DepthWise_Conv_args)
{
    port_fork(param_grads, DepthWise_Conv_args);
}

void pulp_conv_dw_fp32_bw_input_grads_cl(void *DepthWise_Conv_args)
{
    port_fork(input_grads, DepthWise_Conv_args);
}

void pulp_conv_dw_fp32_bw_cl(void *DepthWise_Conv_args)
{
    struct DepthWise_Conv_args const *const a = DepthWise_Conv_args;
    if (!a->skip_wg_grad)
        pulp_conv_dw_fp32_bw_param_grads_cl(DepthWise_Conv_args);
    if (!a->skip_in_grad)
        pulp_conv_dw_fp32_bw_input_grads_cl(DepthWise_Conv_args);
}
