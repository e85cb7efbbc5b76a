/* Padding of planes with a constant: plain reference kernels. */

#include "pulp_train_utils_fp32.h"
#include "tcl_pad_fp32.h"
#include "tcl_split.h"

static void check(struct tcl_pad_args const *a)
{
    PORT_CHECK(a->Lpad >= 0 && a->Rpad >= 0 && a->Upad >= 0 && a->Dpad >= 0);
    PORT_CHECK(a->output->C == a->input->C);
    PORT_CHECK(a->output->H == a->input->H + a->Upad + a->Dpad);
    PORT_CHECK(a->output->W == a->input->W + a->Lpad + a->Rpad);
}

/* Cores share the output elements. */
void tcl_pad_fp32_fw_cl(void *tcl_pad_args)
{
    struct tcl_pad_args const *const a = tcl_pad_args;
    check(a);
    int const H = a->input->H, W = a->input->W, Ho = a->output->H, Wo = a->output->W;
    int start, stop;
    tcl_split(a->output->dim, &start, &stop);
    for (int i = start; i < stop; i++) {
        int const c = i / (Ho * Wo), y = i / Wo % Ho - a->Upad, x = i % Wo - a->Lpad;
        int const is_inside = y >= 0 && y < H && x >= 0 && x < W;
        a->output->data[i] = is_inside ? a->input->data[(c * H + y) * W + x] : a->value;
    }
}

/* Cores share the input elements. */
void tcl_pad_fp32_bw_cl(void *tcl_pad_args)
{
    struct tcl_pad_args const *const a = tcl_pad_args;
    check(a);
    int const H = a->input->H, W = a->input->W, Ho = a->output->H, Wo = a->output->W;
    int start, stop;
    tcl_split(a->input->dim, &start, &stop);
    for (int i = start; i < stop; i++) {
        int const c = i / (H * W), y = i / W % H + a->Upad, x = i % W + a->Lpad;
        a->input->diff[i] = a->output->diff[(c * Ho + y) * Wo + x];
    }
}
