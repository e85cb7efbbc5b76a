/* Tiles of what moves values and computes none: joins, slices, shuffles, padding. */

#include "pulp_train_utils_fp32.h"
#include "tcl_pad_fp32.h"
#include "tcl_tile_body.h"

static int num_floats(struct tcl_part const *part)
{
    return part->num_rows * part->num_columns;
}

/* Where the tile goes to says its operand in L2. Cores share the elements. */
void tcl_tile_move(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, X, Y);
    TCL_CHECK(num_floats(&t->parts[TCL_X]) == num_floats(&t->parts[TCL_Y]));
    float const *const x = tcl_data(t, TCL_X);
    float *const y = tcl_data(t, TCL_Y);
    int start, stop;
    tcl_split(num_floats(&t->parts[TCL_Y]), &start, &stop);
    for (int i = start; i < stop; i++)
        y[i] = x[i];
}

void tcl_tile_fill(struct tcl_tile const *t)
{
    TCL_CHECK(tcl_has(t, TCL_BIT(Y)));
    float *const y = tcl_data(t, TCL_Y);
    int start, stop;
    tcl_split(num_floats(&t->parts[TCL_Y]), &start, &stop);
    for (int i = start; i < stop; i++)
        y[i] = 0.0f;
}

/* Rows are channels, with their whole planes: the plain kernel does them. */
static void pad(struct tcl_tile const *t, enum tcl_slot x, enum tcl_slot y, void (*kernel)(void *args))
{
    struct tcl_layer const *const l = t->layer;
    float *const in = tcl_data(t, x), *const out = tcl_data(t, y);
    int const num_rows = t->parts[y].num_rows;
    struct blob input = {.data = in,
                         .diff = in,
                         .W = l->in_width,
                         .H = l->in_height,
                         .C = num_rows,
                         .dim = num_rows * l->in_height * l->in_width};
    struct blob output = {.data = out,
                          .diff = out,
                          .W = l->out_width,
                          .H = l->out_height,
                          .C = num_rows,
                          .dim = num_rows * l->out_height * l->out_width};
    struct tcl_pad_args args = {
        .input = &input,
        .output = &output,
        .Lpad = l->pad_left,
        .Rpad = l->out_width - l->in_width - l->pad_left,
        .Upad = l->pad_top,
        .Dpad = l->out_height - l->in_height - l->pad_top,
        .value = l->value,
    };
    kernel(&args);
}

void tcl_tile_pad_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, X, Y);
    pad(t, TCL_X, TCL_Y, tcl_pad_fp32_fw_cl);
}

void tcl_tile_pad_bw(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, DX, DY);
    pad(t, TCL_DX, TCL_DY, tcl_pad_fp32_bw_cl);
}
