/* Tiles of what works element by element: activations, sums, updates of weights. Cores share the elements. */

#include "pulp_train_utils_fp32.h"
#include "tcl_activations_fp32.h"
#include "tcl_descend_fp32.h"
#include "tcl_scale_fp32.h"
#include "tcl_tile_body.h"
#include "tcl_update_fp32.h"

static void split_of(struct tcl_tile const *t, enum tcl_slot slot, int *start, int *stop)
{
    tcl_split(t->parts[slot].num_columns, start, stop);
}

void tcl_tile_add(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, DY, Y);
    float const *const a = tcl_data(t, TCL_X), *const b = tcl_data(t, TCL_DY),
                       *const y = tcl_data(t, TCL_MASK);
    float *const sum = tcl_data(t, TCL_Y);
    int start, stop;
    split_of(t, TCL_Y, &start, &stop);
    if (y) {
        for (int i = start; i < stop; i++)
            sum[i] = tcl_passes(y[i], t->layer->act) ? a[i] + b[i] : 0.0f;
    } else if (t->layer->act == TCL_ACT_NONE) {
        for (int i = start; i < stop; i++)
            sum[i] = a[i] + b[i];
    } else {
        for (int i = start; i < stop; i++)
            sum[i] = tcl_activate(a[i] + b[i], (enum tcl_act)t->layer->act);
    }
}

void tcl_tile_relu_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, X, Y);
    float const *const x = tcl_data(t, TCL_X);
    float *const y = tcl_data(t, TCL_Y);
    int start, stop;
    split_of(t, TCL_Y, &start, &stop);
    for (int i = start; i < stop; i++)
        y[i] = tcl_activate(x[i], (enum tcl_act)t->layer->act);
}

void tcl_tile_relu_bw(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, MASK, DY, DX);
    float const *const y = tcl_data(t, TCL_MASK), *const dy = tcl_data(t, TCL_DY);
    float *const dx = tcl_data(t, TCL_DX);
    int start, stop;
    split_of(t, TCL_DX, &start, &stop);
    for (int i = start; i < stop; i++)
        dx[i] = tcl_passes(y[i], t->layer->act) ? dy[i] : 0.0f;
}

/* Forward to Y, backward to DX: the plain kernel on the tile's elements. What the tile has not, it does not
 * read. */
static void activation(struct tcl_tile const *t, enum tcl_slot to, enum tcl_slot output,
                       void (*kernel)(void *args))
{
    int const dim = t->parts[to].num_columns;
    struct blob x = {.data = tcl_data(t, TCL_X), .diff = tcl_data(t, TCL_DX), .dim = dim};
    struct blob y = {.data = tcl_data(t, output), .diff = tcl_data(t, TCL_DY), .dim = dim};
    struct tcl_activation_args args = {&x, &y, t->layer->slope};
    kernel(&args);
}

void tcl_tile_sigmoid_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, X, Y);
    activation(t, TCL_Y, TCL_Y, tcl_sigmoid_fp32_fw_cl);
}

void tcl_tile_sigmoid_bw(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, MASK, DY, DX);
    activation(t, TCL_DX, TCL_MASK, tcl_sigmoid_fp32_bw_cl);
}

void tcl_tile_silu_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, X, Y);
    activation(t, TCL_Y, TCL_Y, tcl_silu_fp32_fw_cl);
}

void tcl_tile_silu_bw(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, DY, DX);
    activation(t, TCL_DX, TCL_MASK, tcl_silu_fp32_bw_cl);
}

void tcl_tile_hardsigmoid_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, X, Y);
    activation(t, TCL_Y, TCL_Y, tcl_hardsigmoid_fp32_fw_cl);
}

void tcl_tile_hardsigmoid_bw(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, MASK, DY, DX);
    activation(t, TCL_DX, TCL_MASK, tcl_hardsigmoid_fp32_bw_cl);
}

void tcl_tile_hardswish_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, X, Y);
    activation(t, TCL_Y, TCL_Y, tcl_hardswish_fp32_fw_cl);
}

void tcl_tile_hardswish_bw(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, DY, DX);
    activation(t, TCL_DX, TCL_MASK, tcl_hardswish_fp32_bw_cl);
}

void tcl_tile_leaky_relu_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, X, Y);
    activation(t, TCL_Y, TCL_Y, tcl_leaky_relu_fp32_fw_cl);
}

void tcl_tile_leaky_relu_bw(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, MASK, DY, DX);
    activation(t, TCL_DX, TCL_MASK, tcl_leaky_relu_fp32_bw_cl);
}

/* Rows are channels, W their factors. */
void tcl_tile_scale(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, W, Y);
    struct tcl_part const *const part = &t->parts[TCL_Y];
    struct blob x = {.data = tcl_data(t, TCL_X), .dim = part->num_rows * part->num_columns};
    struct blob factor = {.data = tcl_data(t, TCL_W), .dim = part->num_rows};
    struct blob y = {.data = part->data, .dim = x.dim};
    struct tcl_scale_args args = {&x, &factor, &y};
    tcl_scale_fp32_fw_cl(&args);
}

/* Columns are some of a channel's pixels. */
void tcl_tile_scale_wg(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, DY, DW);
    struct tcl_part const *const part = &t->parts[TCL_X];
    float *const dw = tcl_data(t, TCL_DW);
    int start, stop;
    tcl_split(part->num_rows, &start, &stop);
    for (int c = start; c < stop; c++) {
        float const *const x = part->data + c * part->num_columns;
        float const *const dy = tcl_data(t, TCL_DY) + c * part->num_columns;
        float const sum = tcl_sum_of_products(x, dy, part->num_columns);
        dw[c] = t->first ? sum : dw[c] + sum;
    }
}

void tcl_tile_descend(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, W, DW, W_NEW);
    float const *const w = tcl_data(t, TCL_W), *const dw = tcl_data(t, TCL_DW);
    float const rate = t->layer->learning_rate, decay = t->layer->weight_decay;
    float *const w_new = tcl_data(t, TCL_W_NEW);
    int start, stop;
    split_of(t, TCL_W_NEW, &start, &stop);
    for (int i = start; i < stop; i++)
        w_new[i] = tcl_descended(w[i], dw[i], rate, decay);
}

/* Copies the calling core's part, which it then changes in place. */
static void renew(struct tcl_tile const *t, enum tcl_slot from, enum tcl_slot to)
{
    int start, stop;
    if (!tcl_data(t, to))
        return;
    split_of(t, to, &start, &stop);
    for (int i = start; i < stop; i++)
        tcl_data(t, to)[i] = tcl_data(t, from)[i];
}

static void update(struct tcl_tile const *t, void (*kernel)(void *args))
{
    struct blob weights = {
        .data = tcl_data(t, TCL_W_NEW),
        .diff = tcl_data(t, TCL_DW),
        .dim = t->parts[TCL_W_NEW].num_columns,
    };
    struct tcl_update_args args = {
        .weights = &weights,
        .first = tcl_data(t, TCL_STATE1_NEW),
        .second = tcl_data(t, TCL_STATE2_NEW),
        .rule = t->layer->rule,
    };
    renew(t, TCL_W, TCL_W_NEW);
    renew(t, TCL_STATE1, TCL_STATE1_NEW);
    renew(t, TCL_STATE2, TCL_STATE2_NEW);
    kernel(&args);
}

void tcl_tile_sgd(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, W, DW, W_NEW);
    update(t, tcl_sgd_fp32);
}

void tcl_tile_adam(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, W, DW, W_NEW);
    TCL_NEEDS_4(t, STATE1, STATE2, STATE1_NEW, STATE2_NEW);
    update(t, tcl_adam_fp32);
}

void tcl_tile_accumulate(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, DW, STATE1, STATE1_NEW);
    struct blob weights = {.diff = tcl_data(t, TCL_DW), .dim = t->parts[TCL_DW].num_columns};
    struct tcl_accumulate_args args = {&weights, tcl_data(t, TCL_STATE1_NEW), t->layer->rule};
    renew(t, TCL_STATE1, TCL_STATE1_NEW);
    tcl_accumulate_fp32(&args);
}
