/* Tiles of convolutions in groups: one group after the other is the tile of a convolution of its own. Rows
   are channels of whole groups, but for weights: theirs are output channels, a column the window of one of a
   group's input channels. */

#include "tcl_tile_body.h"

static void narrow(struct tcl_part *part, int num_groups, int group, int row_floats)
{
    if (!part->data)
        return;
    part->num_rows /= num_groups;
    part->data += group * part->num_rows * row_floats;
    part->changed = part->moved = 1; /* the scratch buffers hold another group's */
}

/* Calls `body`, of a convolution, with each group of the tile; `weights` and `inputs` are slots that tell how
   many there are. */
static void each_group(struct tcl_tile const *t, enum tcl_slot inputs, enum tcl_slot weights,
                       void (*body)(struct tcl_tile const *tile))
{
    struct tcl_layer const *const l = t->layer;
    struct tcl_part const *const x = &t->parts[inputs], *const w = &t->parts[weights];
    int const num_groups = x->num_rows / w->num_columns;
    int const window = w->num_columns * l->kernel_height * l->kernel_width;
    TCL_CHECK(num_groups * w->num_columns == x->num_rows && w->num_rows % num_groups == 0);
    for (int group = 0; group < num_groups; group++) {
        struct tcl_tile one = *t;
        for (int slot = 0; slot < TCL_SLOTS; slot++) {
            struct tcl_part *const part = &one.parts[slot];
            int const is_input = slot == TCL_X || slot == TCL_DX || slot == TCL_MASK;
            int const is_weight = slot == TCL_W || slot == TCL_DW || slot == TCL_W_NEW;
            int const is_bias = slot == TCL_B || slot == TCL_DB || slot == TCL_B_NEW;
            int const width = is_input ? l->in_width : l->out_width;
            if (slot != TCL_SCRATCH1 && slot != TCL_SCRATCH2)
                narrow(part, num_groups, group, is_weight ? window : is_bias ? 1 : part->num_columns * width);
        }
        if (group)
            port_barrier(); /* behind the last reads of the scratch buffers */
        body(&one);
    }
}

void tcl_tile_group_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_4(t, X, W, Y, SCRATCH1);
    each_group(t, TCL_X, TCL_W, tcl_tile_conv_fw);
}

void tcl_tile_group_ig(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, DY, W, DX);
    TCL_NEEDS_2(t, SCRATCH1, SCRATCH2);
    each_group(t, TCL_DX, TCL_W, tcl_tile_conv_ig);
}

void tcl_tile_group_wg(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, DY, SCRATCH1);
    TCL_CHECK(tcl_data(t, TCL_DW) || tcl_has(t, TCL_BIT(W) | TCL_BIT(W_NEW)));
    each_group(t, TCL_X, tcl_data(t, TCL_DW) ? TCL_DW : TCL_W_NEW, tcl_tile_conv_wg);
}
