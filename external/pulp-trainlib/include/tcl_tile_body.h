/* What the bodies of tiles share. */
#ifndef TCL_TILE_BODY_H
#define TCL_TILE_BODY_H

#include "port_dma.h"
#include "tcl_fast_dw_fp32.h"
#include "tcl_fast_fp32.h"
#include "tcl_split.h"
#include "tcl_tile.h"
#include "tcl_window.h"

static inline float *tcl_data(struct tcl_tile const *t, enum tcl_slot slot)
{
    return t->parts[slot].data;
}

/* The contract of a body: its tile has all of these slots, a bit for each. */
static inline int tcl_has(struct tcl_tile const *t, unsigned slots)
{
    for (int slot = 0; slot < TCL_SLOTS; slot++)
        if ((slots >> slot & 1) && !t->parts[slot].data)
            return 0;
    return 1;
}

#define TCL_BIT(slot) (1u << TCL_##slot)
#define TCL_NEEDS_2(t, a, b) TCL_CHECK(tcl_has(t, TCL_BIT(a) | TCL_BIT(b)))
#define TCL_NEEDS_3(t, a, b, c) TCL_CHECK(tcl_has(t, TCL_BIT(a) | TCL_BIT(b) | TCL_BIT(c)))
#define TCL_NEEDS_4(t, a, b, c, d) TCL_CHECK(tcl_has(t, TCL_BIT(a) | TCL_BIT(b) | TCL_BIT(c) | TCL_BIT(d)))

/* The window of `H` rows of a layer's input and `Ho` of its output, as a layer of their own. */
static inline struct tcl_window tcl_window_of_layer(struct tcl_layer const *l, int H, int Ho, int pad_top)
{
    return (struct tcl_window){
        .H = H,
        .W = l->in_width,
        .Ho = Ho,
        .Wo = l->out_width,
        .kh = l->kernel_height,
        .kw = l->kernel_width,
        .stride_h = l->stride_h,
        .stride_w = l->stride_w,
        .pad_top = pad_top,
        .pad_left = l->pad_left,
    };
}

/* That of a tile with these rows of the image as columns: see struct tcl_dw_tile for pad_top. */
static inline struct tcl_window tcl_window_of_tile(struct tcl_layer const *l, struct tcl_part const *x,
                                                   struct tcl_part const *y)
{
    return tcl_window_of_layer(l, x->num_columns, y->num_columns,
                               l->pad_top + x->column - y->column * l->stride_h);
}

/* The tile as the fast kernels of windows take it. */
static inline struct tcl_dw_tile tcl_dw_tile_of(struct tcl_layer const *l, struct tcl_part const *x,
                                                struct tcl_part const *y, int num_channels)
{
    return (struct tcl_dw_tile){
        .num_channels = num_channels,
        .x_stride = x->num_columns * l->in_width,
        .y_stride = y->num_columns * l->out_width,
        .window = tcl_window_of_tile(l, x, y),
    };
}

/* The derivative of the activation whose output is y. */
static inline int tcl_passes(float y, int act)
{
    return y > 0.0f && (act != TCL_ACT_RELU6 || y < TCL_SIX);
}

/* dx = 0 where the activation below stops the gradient, if the tile has a mask; behind a barrier. Cores share
   the elements. */
void tcl_tile_mask(struct tcl_tile const *t, int num_elements);

/* Adds dy's sums to the bias gradient, if the tile has one; with the last tile the updated bias and, of
   num_weights, the updated weights follow, if the tile has them and the weights' gradient, which other cores
   may have written before. Cores share the channels, then the weights. */
void tcl_tile_finish_wg(struct tcl_tile const *t, int num_pixels, int num_weights);

#endif
