/* Average pooling, CHW: plain reference kernels. Cores share the channels. */

#include "pulp_pooling_fp32.h"
#include "tcl_split.h"

static void check(struct pool_args const *a)
{
    PORT_CHECK(a->input->C == a->output->C);
    PORT_CHECK(a->output->H == (a->input->H - a->Hker) / a->Hstride + 1);
    PORT_CHECK(a->output->W == (a->input->W - a->Wker) / a->Wstride + 1);
}

void pulp_avgpool_fp32_fw_cl(void *pool_args)
{
    struct pool_args const *const a = pool_args;
    check(a);
    int const W = a->input->W, plane = a->input->H * W, Wo = a->output->W, out_plane = a->output->H * Wo;
    int start, stop;
    tcl_split(a->input->C, &start, &stop);
    for (int i = start * out_plane; i < stop * out_plane; i++) {
        int const y0 = i % out_plane / Wo * a->Hstride, x0 = i % Wo * a->Wstride;
        float const *const corner = a->input->data + i / out_plane * plane + y0 * W + x0;
        float sum = 0.0f;
        for (int ky = 0; ky < a->Hker; ky++)
            for (int kx = 0; kx < a->Wker; kx++)
                sum += corner[ky * W + kx];
        a->output->data[i] = sum / (float)(a->Hker * a->Wker);
    }
}

void pulp_avgpool_fp32_bw_cl(void *pool_args)
{
    struct pool_args const *const a = pool_args;
    check(a);
    int const W = a->input->W, plane = a->input->H * W, Wo = a->output->W, out_plane = a->output->H * Wo;
    int start, stop;
    tcl_split(a->input->C, &start, &stop);
    for (int i = start * plane; i < stop * plane; i++)
        a->input->diff[i] = 0.0f;
    for (int i = start * out_plane; i < stop * out_plane; i++) {
        int const y0 = i % out_plane / Wo * a->Hstride, x0 = i % Wo * a->Wstride;
        float *const corner = a->input->diff + i / out_plane * plane + y0 * W + x0;
        float const share = a->output->diff[i] / (float)(a->Hker * a->Wker);
        for (int ky = 0; ky < a->Hker; ky++)
            for (int kx = 0; kx < a->Wker; kx++)
                corner[ky * W + kx] += share;
    }
}
