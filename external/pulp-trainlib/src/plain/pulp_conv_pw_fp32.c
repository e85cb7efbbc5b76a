/* Pointwise convolution, CHW: plain reference kernels. */

#include "pulp_conv_pw_fp32.h"
#include "tcl_split.h"

static void check(struct PointWise_Conv_args const *a)
{
    PORT_CHECK(a->HWC == 0);
    PORT_CHECK(a->input->H == a->output->H && a->input->W == a->output->W);
    PORT_CHECK(a->coeff->dim == a->input->C * a->output->C);
}

/* Cores share the output elements. */
static void forward(void *args)
{
    struct PointWise_Conv_args const *const a = args;
    check(a);
    int const num_in = a->input->C, plane = a->input->H * a->input->W;
    int start, stop;
    tcl_split(a->output->C * plane, &start, &stop);
    for (int i = start; i < stop; i++) {
        float const *const weights = a->coeff->data + i / plane * num_in;
        float const *const pixel = a->input->data + i % plane;
        float sum = 0.0f;
        for (int ci = 0; ci < num_in; ci++)
            sum += weights[ci] * pixel[ci * plane];
        a->output->data[i] = sum;
    }
}

/* Cores share the weights. Rows are summed apart, which keeps the rounding error of large planes small. */
static void param_grads(void *args)
{
    struct PointWise_Conv_args const *const a = args;
    check(a);
    int const num_in = a->input->C, H = a->input->H, W = a->input->W, plane = H * W;
    int start, stop;
    tcl_split(a->coeff->dim, &start, &stop);
    for (int i = start; i < stop; i++) {
        float const *const dy = a->output->diff + i / num_in * plane;
        float const *const x = a->input->data + i % num_in * plane;
        float sum = 0.0f;
        for (int y = 0; y < H; y++) {
            float row_sum = 0.0f;
            for (int j = y * W; j < (y + 1) * W; j++)
                row_sum += dy[j] * x[j];
            sum += row_sum;
        }
        a->coeff->diff[i] = sum;
    }
}

/* Cores share the input elements. */
static void input_grads(void *args)
{
    struct PointWise_Conv_args const *const a = args;
    check(a);
    int const num_in = a->input->C, num_out = a->output->C, plane = a->input->H * a->input->W;
    int start, stop;
    tcl_split(num_in * plane, &start, &stop);
    for (int i = start; i < stop; i++) {
        float const *const weights = a->coeff->data + i / plane;
        float const *const dy = a->output->diff + i % plane;
        float sum = 0.0f;
        for (int co = 0; co < num_out; co++)
            sum += weights[co * num_in] * dy[co * plane];
        a->input->diff[i] = sum;
    }
}

void pulp_conv_pw_fp32_fw_cl(void *PointWise_Conv_args)
{
    port_fork(forward, PointWise_Conv_args);
}

void pulp_conv_pw_fp32_bw_param_grads_cl(void *PointWise_Conv_args)
{
    port_fork(param_grads, PointWise_Conv_args);
}

void pulp_conv_pw_fp32_bw_input_grads_cl(void *PointWise_Conv_args)
{
    port_fork(input_grads, PointWise_Conv_args);
}

void pulp_conv_pw_fp32_bw_cl(void *PointWise_Conv_args)
{
    struct PointWise_Conv_args const *const a = PointWise_Conv_args;
    if (!a->skip_wg_grad)
        pulp_conv_pw_fp32_bw_param_grads_cl(PointWise_Conv_args);
    if (!a->skip_in_grad)
        pulp_conv_pw_fp32_bw_input_grads_cl(PointWise_Conv_args);
}
