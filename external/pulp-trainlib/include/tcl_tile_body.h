/* What the bodies of tiles share. */
#ifndef TCL_TILE_BODY_H
#define TCL_TILE_BODY_H

#include "port_dma.h"
#include "tcl_fast_fp32.h"
#include "tcl_split.h"
#include "tcl_tile.h"

static inline float *tcl_data(struct tcl_tile const *t, enum tcl_slot slot)
{
    return t->parts[slot].data;
}

/* The derivative of the activation whose output is y. */
static inline int tcl_passes(float y, int act)
{
    return y > 0.0f && (act != TCL_ACT_RELU6 || y < 6.0f);
}

/* dx = 0 where the activation below stops the gradient, if the tile has a mask; behind a barrier. Cores share
   the elements. */
void tcl_tile_mask(struct tcl_tile const *t, int num_elements);

/* Adds dy's sums to the bias gradient, if the tile has one; with the last tile the updated bias and, of
   num_weights, the updated weights follow, if the tile has them and the weights' gradient, which other cores
   may have written before. Cores share the channels, then the weights. */
void tcl_tile_finish_wg(struct tcl_tile const *t, int num_pixels, int num_weights);

#endif
