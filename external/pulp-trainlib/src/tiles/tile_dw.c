/* Tiles of depthwise convolutions: rows are channels, columns rows of the image with all their pixels. */

#include "tcl_fast_dw_fp32.h"
#include "tcl_tile_body.h"

static int is_fast(struct tcl_window const *w)
{
    return w->kh == 3 && w->kw == 3 && w->stride_h == w->stride_w && w->stride_h <= 2 && w->pad_left <= 1 &&
           (w->Wo - 1) * w->stride_w - w->pad_left + 2 <= w->W;
}

void tcl_tile_dw_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, W, Y);
    struct tcl_part const *const x = &t->parts[TCL_X], *const y = &t->parts[TCL_Y];
    float const *const weights = tcl_data(t, TCL_W), *const bias = tcl_data(t, TCL_B);
    enum tcl_act const act = (enum tcl_act)t->layer->act;
    struct tcl_window const w = tcl_window_of_tile(t->layer, x, y);
    if (is_fast(&w)) {
        struct tcl_dw_tile const fast = tcl_dw_tile_of(&w, y->num_rows);
        tcl_fast_dw_fw_fp32(&fast, x->data, weights, bias, y->data, act);
        return;
    }
    int const plane = w.Ho * w.Wo;
    int start, stop;
    tcl_split(y->num_rows * plane, &start, &stop);
    for (int i = start; i < stop; i++) {
        int const c = i / plane;
        float const sum =
            tcl_window_fw(&w, x->data + c * w.H * w.W, weights + c * w.kh * w.kw, i % plane / w.Wo, i % w.Wo);
        y->data[i] = tcl_activate(bias ? sum + bias[c] : sum, act);
    }
}

void tcl_tile_dw_ig(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, DY, W, DX);
    struct tcl_part const *const dx = &t->parts[TCL_DX], *const dy = &t->parts[TCL_DY];
    float const *const weights = tcl_data(t, TCL_W);
    struct tcl_window const w = tcl_window_of_tile(t->layer, dx, dy);
    int const plane = w.H * w.W;
    if (is_fast(&w)) {
        struct tcl_dw_tile const fast = tcl_dw_tile_of(&w, dx->num_rows);
        tcl_fast_dw_ig_fp32(&fast, dy->data, weights, dx->data);
    } else {
        int start, stop;
        tcl_split(dx->num_rows * plane, &start, &stop);
        for (int i = start; i < stop; i++) {
            int const c = i / plane;
            dx->data[i] = tcl_window_ig(&w, dy->data + c * w.Ho * w.Wo, weights + c * w.kh * w.kw,
                                        i % plane / w.W, i % w.W);
        }
    }
    tcl_tile_mask(t, dx->num_rows * plane);
}

void tcl_tile_dw_wg(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, DY, DW);
    struct tcl_part const *const x = &t->parts[TCL_X], *const dy = &t->parts[TCL_DY];
    float *const dw = tcl_data(t, TCL_DW);
    struct tcl_window const w = tcl_window_of_tile(t->layer, x, dy);
    int const kernel = w.kh * w.kw, num_weights = dy->num_rows * kernel;
    if (is_fast(&w)) {
        struct tcl_dw_tile const fast = tcl_dw_tile_of(&w, dy->num_rows);
        tcl_fast_dw_wg_fp32(&fast, x->data, dy->data, dw, !t->first);
    } else {
        int start, stop;
        tcl_split(num_weights, &start, &stop);
        for (int i = start; i < stop; i++) {
            int const c = i / kernel;
            float const sum = tcl_window_wg(&w, x->data + c * w.H * w.W, dy->data + c * w.Ho * w.Wo,
                                            i % kernel / w.kw, i % w.kw);
            dw[i] = t->first ? sum : dw[i] + sum;
        }
    }
    tcl_tile_finish_wg(t, w.Ho * w.Wo, num_weights);
}
