/* Tiles of pointwise convolutions and linear layers: rows are channels, columns pixels (of weights: inputs).
 */

#include "tcl_fast_pw_fp32.h"
#include "tcl_tile_body.h"

static struct tcl_pw_tile tile_of(struct tcl_part const *x, struct tcl_part const *y)
{
    return (struct tcl_pw_tile){
        .num_in = x->num_rows,
        .num_out = y->num_rows,
        .num_pixels = y->num_columns,
        .x_stride = x->num_columns,
        .y_stride = y->num_columns,
        .w_stride = x->num_rows,
    };
}

void tcl_tile_pw_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, W, Y);
    struct tcl_part const *const x = &t->parts[TCL_X], *const y = &t->parts[TCL_Y];
    struct tcl_pw_tile const tile = tile_of(x, y);
    tcl_fast_pw_fw_fp32(&tile, x->data, tcl_data(t, TCL_W), t->first ? tcl_data(t, TCL_B) : NULL, y->data,
                        !t->first, t->last ? (enum tcl_act)t->layer->act : TCL_ACT_NONE);
}

void tcl_tile_pw_ig(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, DY, W, DX);
    struct tcl_part const *const dx = &t->parts[TCL_DX], *const dy = &t->parts[TCL_DY];
    struct tcl_pw_tile const tile = tile_of(dx, dy);
    tcl_fast_pw_ig_fp32(&tile, dy->data, tcl_data(t, TCL_W), dx->data, !t->first);
    tcl_tile_mask(t, dx->num_rows * dx->num_columns);
}

void tcl_tile_pw_wg(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, X, DY);
    TCL_CHECK(tcl_data(t, TCL_DW) || tcl_has(t, TCL_BIT(W) | TCL_BIT(W_NEW)));
    struct tcl_part const *const x = &t->parts[TCL_X], *const dy = &t->parts[TCL_DY];
    struct tcl_pw_tile const tile = tile_of(x, dy);
    float *const dw = tcl_data(t, TCL_DW);
    if (dw)
        tcl_fast_pw_wg_fp32(&tile, x->data, dy->data, dw, !t->first);
    else
        tcl_fast_pw_descend_fp32(&tile, x->data, dy->data, tcl_data(t, TCL_W), tcl_data(t, TCL_W_NEW),
                                 t->layer->learning_rate, t->layer->weight_decay);
    tcl_tile_finish_wg(t, tile.num_pixels, tile.num_in * tile.num_out);
}
