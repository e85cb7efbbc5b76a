/* 2D convolution in groups of channels, CHW: plain reference kernels. */

#include "pulp_train_utils_fp32.h"
#include "tcl_conv_group_fp32.h"
#include "tcl_split.h"

static void check(struct tcl_conv_group_args const *a)
{
    struct blob const *const x = a->input, *const k = a->coeff, *const y = a->output;
    PORT_CHECK(k->dim == y->C * a->group_inputs * k->H * k->W);
    PORT_CHECK(x->C % a->group_inputs == 0 && y->C <= x->C / a->group_inputs * a->group_outputs);
    PORT_CHECK(y->H == (x->H + a->Upad + a->Dpad - (k->H - 1) * a->dilation_h - 1) / a->stride_h + 1);
    PORT_CHECK(y->W == (x->W + a->Lpad + a->Rpad - (k->W - 1) * a->dilation_w - 1) / a->stride_w + 1);
}

/* The sum over the window of output (oy, ox) in one input plane x with one filter k. */
static float window_sum(struct tcl_conv_group_args const *a, float const *x, float const *k, int oy, int ox)
{
    int const H = a->input->H, W = a->input->W, kh = a->coeff->H, kw = a->coeff->W;
    float sum = 0.0f;
    for (int ky = 0; ky < kh; ky++) {
        int const iy = oy * a->stride_h - a->Upad + ky * a->dilation_h;
        if (iy < 0 || iy >= H)
            continue;
        for (int kx = 0; kx < kw; kx++) {
            int const ix = ox * a->stride_w - a->Lpad + kx * a->dilation_w;
            if (ix >= 0 && ix < W)
                sum += x[iy * W + ix] * k[ky * kw + kx];
        }
    }
    return sum;
}

/* Cores share the output elements. */
static void forward(void *args)
{
    struct tcl_conv_group_args const *const a = args;
    check(a);
    int const in_plane = a->input->H * a->input->W, out_plane = a->output->H * a->output->W;
    int const kernel = a->coeff->H * a->coeff->W;
    int start, stop;
    tcl_split(a->output->C * out_plane, &start, &stop);
    for (int i = start; i < stop; i++) {
        int const co = i / out_plane, oy = i % out_plane / a->output->W, ox = i % a->output->W;
        int const first = co / a->group_outputs * a->group_inputs;
        float sum = 0.0f;
        for (int ci = 0; ci < a->group_inputs; ci++)
            sum += window_sum(a, a->input->data + (first + ci) * in_plane,
                              a->coeff->data + (co * a->group_inputs + ci) * kernel, oy, ox);
        a->output->data[i] = sum;
    }
}

/* The sum over all outputs of one plane for the weight (ky, kx). Rows are summed apart, which keeps the
   rounding error of large planes small. */
static float weight_sum(struct tcl_conv_group_args const *a, float const *x, float const *dy, int ky, int kx)
{
    int const H = a->input->H, W = a->input->W, Ho = a->output->H, Wo = a->output->W;
    float sum = 0.0f;
    for (int oy = 0; oy < Ho; oy++) {
        int const iy = oy * a->stride_h - a->Upad + ky * a->dilation_h;
        float row_sum = 0.0f;
        for (int ox = 0; iy >= 0 && iy < H && ox < Wo; ox++) {
            int const ix = ox * a->stride_w - a->Lpad + kx * a->dilation_w;
            if (ix >= 0 && ix < W)
                row_sum += x[iy * W + ix] * dy[oy * Wo + ox];
        }
        sum += row_sum;
    }
    return sum;
}

/* Cores share the weights. */
static void param_grads(void *args)
{
    struct tcl_conv_group_args const *const a = args;
    check(a);
    int const in_plane = a->input->H * a->input->W, out_plane = a->output->H * a->output->W;
    int const kernel = a->coeff->H * a->coeff->W;
    int start, stop;
    tcl_split(a->coeff->dim, &start, &stop);
    for (int i = start; i < stop; i++) {
        int const co = i / kernel / a->group_inputs, ci = i / kernel % a->group_inputs;
        int const first = co / a->group_outputs * a->group_inputs;
        a->coeff->diff[i] =
            weight_sum(a, a->input->data + (first + ci) * in_plane, a->output->diff + co * out_plane,
                       i % kernel / a->coeff->W, i % a->coeff->W);
    }
}

/* The sum of dy * k over all windows of one output plane that the input (iy, ix) lies in. */
static float input_sum(struct tcl_conv_group_args const *a, float const *dy, float const *k, int iy, int ix)
{
    int const Ho = a->output->H, Wo = a->output->W, kh = a->coeff->H, kw = a->coeff->W;
    float sum = 0.0f;
    for (int ky = 0; ky < kh; ky++) {
        int const y = iy + a->Upad - ky * a->dilation_h;
        if (y < 0 || y % a->stride_h || y / a->stride_h >= Ho)
            continue;
        for (int kx = 0; kx < kw; kx++) {
            int const x = ix + a->Lpad - kx * a->dilation_w;
            if (x >= 0 && x % a->stride_w == 0 && x / a->stride_w < Wo)
                sum += dy[y / a->stride_h * Wo + x / a->stride_w] * k[ky * kw + kx];
        }
    }
    return sum;
}

/* Cores share the input elements. */
static void input_grads(void *args)
{
    struct tcl_conv_group_args const *const a = args;
    check(a);
    int const in_plane = a->input->H * a->input->W, out_plane = a->output->H * a->output->W;
    int const kernel = a->coeff->H * a->coeff->W;
    int start, stop;
    tcl_split(a->input->C * in_plane, &start, &stop);
    for (int i = start; i < stop; i++) {
        int const channel = i / in_plane, iy = i % in_plane / a->input->W, ix = i % a->input->W;
        int const group = channel / a->group_inputs, ci = channel % a->group_inputs;
        float sum = 0.0f;
        for (int n = 0; n < a->group_outputs; n++) {
            int const co = group * a->group_outputs + n;
            sum += input_sum(a, a->output->diff + co * out_plane,
                             a->coeff->data + (co * a->group_inputs + ci) * kernel, iy, ix);
        }
        a->input->diff[i] = sum;
    }
}

void tcl_conv_group_fp32_fw_cl(void *tcl_conv_group_args)
{
    port_fork(forward, tcl_conv_group_args);
}

void tcl_conv_group_fp32_bw_param_grads_cl(void *tcl_conv_group_args)
{
    port_fork(param_grads, tcl_conv_group_args);
}

void tcl_conv_group_fp32_bw_input_grads_cl(void *tcl_conv_group_args)
{
    port_fork(input_grads, tcl_conv_group_args);
}
