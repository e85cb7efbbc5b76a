/* Tiles of pointwise convolutions and linear layers: rows are channels, columns pixels (of weights: inputs).
 */

#include "tcl_fast_pw_fp32.h"
#include "tcl_tile_body.h"

void tcl_tile_pw_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, W, Y);
    struct tcl_part const *const x = &t->parts[TCL_X], *const y = &t->parts[TCL_Y];
    tcl_fast_pw_fw_fp32(x->data, tcl_data(t, TCL_W), t->first ? tcl_data(t, TCL_B) : NULL, y->data,
                        x->num_rows, y->num_rows, x->num_columns, x->num_columns, x->num_rows, y->num_columns,
                        !t->first, t->last ? (enum tcl_act)t->layer->act : TCL_ACT_NONE);
}

void tcl_tile_pw_ig(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, DY, W, DX);
    struct tcl_part const *const dx = &t->parts[TCL_DX], *const dy = &t->parts[TCL_DY];
    tcl_fast_pw_ig_fp32(dy->data, tcl_data(t, TCL_W), dx->data, dx->num_rows, dy->num_rows, dx->num_columns,
                        dy->num_columns, dx->num_rows, dx->num_columns, !t->first);
    tcl_tile_mask(t, dx->num_rows * dx->num_columns);
}

void tcl_tile_pw_wg(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, X, DY);
    TCL_CHECK(tcl_data(t, TCL_DW) || tcl_has(t, TCL_BIT(W) | TCL_BIT(W_NEW)));
    struct tcl_part const *const x = &t->parts[TCL_X], *const dy = &t->parts[TCL_DY];
    int const num_in = x->num_rows, num_out = dy->num_rows, num_pixels = dy->num_columns;
    float *const dw = tcl_data(t, TCL_DW);
    if (dw)
        tcl_fast_pw_wg_fp32(x->data, dy->data, dw, num_in, num_out, num_pixels, num_pixels, num_pixels,
                            num_in, !t->first);
    else
        tcl_fast_pw_descend_fp32(x->data, dy->data, tcl_data(t, TCL_W), tcl_data(t, TCL_W_NEW), num_in,
                                 num_out, num_pixels, num_pixels, num_pixels, num_in, t->layer->learning_rate,
                                 t->layer->weight_decay);
    tcl_tile_finish_wg(t, num_pixels, num_in * num_out);
}
