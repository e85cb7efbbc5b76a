/* What follows the gradients of a layer within the same tiles: activation masks, bias gradients, plain SGD.
 */

#include "tcl_descend_fp32.h"
#include "tcl_fast_map_fp32.h"
#include "tcl_tile_body.h"

void tcl_tile_mask(struct tcl_tile const *t, int num_elements)
{
    float const *const y = tcl_data(t, TCL_MASK);
    if (!y || !t->last)
        return;
    port_barrier();
    struct tcl_map_tile const all = {1, num_elements, num_elements, num_elements};
    tcl_fast_bias_act_bw_fp32(&all, y, tcl_data(t, TCL_DX), NULL, 0, (enum tcl_act)t->layer->act);
}

/* Of a bias tile that begins with its layer's first weights: later tiles of weights have the same bias. */
static void bias_grads(struct tcl_tile const *t, int num_pixels)
{
    struct tcl_part const *const db = &t->parts[TCL_DB];
    int start, stop;
    if (!db->data || t->parts[tcl_data(t, TCL_DW) ? TCL_DW : TCL_W_NEW].column > 0)
        return;
    struct tcl_map_tile const channels = {db->num_rows, num_pixels, num_pixels, num_pixels};
    tcl_fast_bias_act_bw_fp32(&channels, NULL, tcl_data(t, TCL_DY), db->data, !t->first, TCL_ACT_NONE);
    if (!t->last || !tcl_data(t, TCL_B_NEW))
        return;
    tcl_split(db->num_rows, &start, &stop); /* the same channels */
    for (int c = start; c < stop; c++)
        tcl_data(t, TCL_B_NEW)[c] = tcl_descended(tcl_data(t, TCL_B)[c], db->data[c], t->layer->learning_rate,
                                                  t->layer->weight_decay);
}

static void descend(struct tcl_tile const *t, int num_weights)
{
    float const *const dw = tcl_data(t, TCL_DW), *const w = tcl_data(t, TCL_W);
    float *const w_new = tcl_data(t, TCL_W_NEW);
    float const rate = t->layer->learning_rate, decay = t->layer->weight_decay;
    int start, stop;
    tcl_split(num_weights, &start, &stop);
    for (int i = start; i < stop; i++)
        w_new[i] = tcl_descended(w[i], dw[i], rate, decay);
}

void tcl_tile_finish_wg(struct tcl_tile const *t, int num_pixels, int num_weights)
{
    TCL_CHECK(num_pixels > 0 && num_weights > 0);
    bias_grads(t, num_pixels);
    if (t->last && tcl_data(t, TCL_W_NEW) && tcl_data(t, TCL_DW)) {
        port_barrier();
        descend(t, num_weights);
    }
}

void tcl_tile_bias_wg(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, DY, DB);
    bias_grads(t, t->parts[TCL_DY].num_columns);
}
