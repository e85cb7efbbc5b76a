/* Tiles of depthwise convolutions: rows are channels, columns rows of the image with all their pixels. */

#include "tcl_fast_dw_fp32.h"
#include "tcl_tile_body.h"

void tcl_tile_dw_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, W, Y);
    struct tcl_part const *const x = &t->parts[TCL_X], *const y = &t->parts[TCL_Y];
    struct tcl_dw_tile const tile = tcl_dw_tile_of(t->layer, x, y, y->num_rows);
    tcl_fast_dw_fw_fp32(&tile, x->data, tcl_data(t, TCL_W), tcl_data(t, TCL_B), y->data,
                        (enum tcl_act)t->layer->act);
}

void tcl_tile_dw_ig(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, DY, W, DX);
    struct tcl_part const *const dx = &t->parts[TCL_DX], *const dy = &t->parts[TCL_DY];
    struct tcl_dw_tile const tile = tcl_dw_tile_of(t->layer, dx, dy, dx->num_rows);
    tcl_fast_dw_ig_fp32(&tile, dy->data, tcl_data(t, TCL_W), dx->data);
    tcl_tile_mask(t, dx->num_rows * tile.x_stride);
}

void tcl_tile_dw_wg(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, DY, DW);
    struct tcl_part const *const x = &t->parts[TCL_X], *const dy = &t->parts[TCL_DY];
    struct tcl_dw_tile const tile = tcl_dw_tile_of(t->layer, x, dy, dy->num_rows);
    tcl_fast_dw_wg_fp32(&tile, x->data, dy->data, tcl_data(t, TCL_DW), !t->first);
    tcl_tile_finish_wg(t, tile.y_stride, dy->num_rows * tile.window.kh * tile.window.kw);
}
