/* Tiles of convolutions with any window: the pixels that each weight meets are laid out in rows, and a matrix
   product does the rest. Rows of a tile are channels, columns rows of the image; of weights a column is the
   window of one input channel. */

#include "tcl_fast_conv_fp32.h"
#include "tcl_fast_gemm_fp32.h"
#include "tcl_tile_body.h"

/* to[0 .. num - 1] = from[first + i * step], zero where the index lies outside of 0 .. size - 1. */
static void gather(float *to, int num, float const *from, int first, int step, int size)
{
    int i = 0;
    int const stop = first >= size ? 0 : tcl_floor_div(size - 1 - first, step) + 1;
    int const inside = stop < num ? stop : num;
    for (; i < num && first + i * step < 0; i++)
        to[i] = 0.0f;
    if (step == 1) {
        for (; i < inside; i++)
            to[i] = from[first + i];
    } else {
        for (; i < inside; i++)
            to[i] = from[first + i * step];
    }
    for (; i < num; i++)
        to[i] = 0.0f;
}

/* columns[(c, ky, kx)][(oy, ox)] = x[c][oy * stride - pad + ky][ox * stride - pad + kx]. Cores share the rows
   of output pixels of all weights. */
static void lay_out_inputs(struct tcl_tile const *t, struct tcl_part const *y, float *columns)
{
    struct tcl_layer const *const l = t->layer;
    struct tcl_part const *const x = &t->parts[TCL_X];
    int const kernel = l->kernel_height * l->kernel_width, Ho = y->num_columns, Wo = l->out_width;
    int const pad_top = l->pad_top + x->column - y->column * l->stride_h;
    int start, stop;
    tcl_split(x->num_rows * kernel * Ho, &start, &stop);
    int k = start / Ho, oy = start % Ho;
    for (int i = start; i < stop; i++) {
        int const c = k / kernel, ky = k % kernel / l->kernel_width, kx = k % kernel % l->kernel_width;
        int const iy = oy * l->stride_h - pad_top + ky;
        int const meets = iy >= 0 && iy < x->num_columns;
        float const *const row = x->data + (c * x->num_columns + (meets ? iy : 0)) * l->in_width;
        gather(columns + i * Wo, Wo, row, kx - l->pad_left, l->stride_w, meets ? l->in_width : 0);
        if (++oy == Ho) {
            oy = 0;
            k++;
        }
    }
}

void tcl_tile_conv_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_4(t, X, W, Y, SCRATCH1);
    struct tcl_part const *const x = &t->parts[TCL_X], *const y = &t->parts[TCL_Y];
    int const num_k = x->num_rows * t->layer->kernel_height * t->layer->kernel_width;
    int const num_pixels = y->num_columns * t->layer->out_width;
    struct tcl_gemm const g = {
        .a = tcl_data(t, TCL_W),
        .b = tcl_data(t, TCL_SCRATCH1),
        .first = t->first ? tcl_data(t, TCL_B) : NULL,
        .base = t->first ? NULL : y->data,
        .c = y->data,
        .num_m = y->num_rows,
        .num_n = num_pixels,
        .num_k = num_k,
        .a_m = num_k,
        .a_k = 1,
        .b_n = 1,
        .b_k = num_pixels,
        .c_m = num_pixels,
        .scale = 1.0f,
        .act = t->last ? (enum tcl_act)t->layer->act : TCL_ACT_NONE,
    };
    if (x->changed || y->moved) {
        lay_out_inputs(t, y, tcl_data(t, TCL_SCRATCH1));
        port_barrier();
    }
    tcl_fast_gemm_fp32(&g);
}

void tcl_tile_conv_wg(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, DY, SCRATCH1);
    TCL_CHECK(tcl_data(t, TCL_DW) || tcl_has(t, TCL_BIT(W) | TCL_BIT(W_NEW)));
    struct tcl_part const *const x = &t->parts[TCL_X], *const dy = &t->parts[TCL_DY];
    int const num_k = x->num_rows * t->layer->kernel_height * t->layer->kernel_width;
    int const num_pixels = dy->num_columns * t->layer->out_width;
    float *const dw = tcl_data(t, TCL_DW); /* without: plain SGD by the sum, which this tile has all of */
    struct tcl_gemm const g = {
        .a = dy->data,
        .b = tcl_data(t, TCL_SCRATCH1),
        .base = !dw        ? tcl_data(t, TCL_W)
                : t->first ? NULL
                           : dw,
        .c = dw ? dw : tcl_data(t, TCL_W_NEW),
        .num_m = dy->num_rows,
        .num_n = num_k,
        .num_k = num_pixels,
        .a_m = num_pixels,
        .a_k = 1,
        .b_n = num_pixels,
        .b_k = 1,
        .c_m = num_k,
        .scale = dw ? 1.0f : -t->layer->learning_rate,
        .decay = dw ? 0.0f : t->layer->weight_decay,
    };
    if (x->changed || dy->moved) {
        lay_out_inputs(t, dy, tcl_data(t, TCL_SCRATCH1));
        port_barrier();
    }
    tcl_fast_gemm_fp32(&g);
    tcl_tile_finish_wg(t, num_pixels, num_k * dy->num_rows);
}

/* columns[(c, ky, kx)][(iy, ix)] = dy[c][oy][ox] where oy * stride - pad + ky == iy, likewise for ox; 0 where
   there is none. Cores share the rows of input pixels of all weights. */
static void lay_out_gradients(struct tcl_tile const *t, float *columns)
{
    struct tcl_layer const *const l = t->layer;
    struct tcl_part const *const dy = &t->parts[TCL_DY], *const dx = &t->parts[TCL_DX];
    int const kernel = l->kernel_height * l->kernel_width, H = dx->num_columns, W = l->in_width;
    int const sw = l->stride_w, pad_top = l->pad_top + dx->column - dy->column * l->stride_h;
    int start, stop;
    tcl_split(dy->num_rows * kernel * H, &start, &stop);
    int k = start / H, iy = start % H;
    for (int i = start; i < stop; i++) {
        int const c = k / kernel, ky = k % kernel / l->kernel_width, kx = k % kernel % l->kernel_width;
        int const sy = iy + pad_top - ky, oy = tcl_floor_div(sy, l->stride_h);
        int const meets = sy == oy * l->stride_h && oy >= 0 && oy < dy->num_columns;
        float const *const row = dy->data + (c * dy->num_columns + (meets ? oy : 0)) * l->out_width;
        float *const to = columns + i * W;
        int const size = meets ? l->out_width : 0;
        if (sw == 1) {
            gather(to, W, row, l->pad_left - kx, 1, size);
        } else {
            for (int ix = 0; ix < W; ix++)
                to[ix] = 0.0f;
            for (int ox = 0; ox < size; ox++) {
                int const ix = ox * sw - l->pad_left + kx;
                if (ix >= 0 && ix < W)
                    to[ix] = row[ox];
            }
        }
        if (++iy == H) {
            iy = 0;
            k++;
        }
    }
}

/* turned[ci][(co, k)] = w[co][ci][k]: one row for each input channel. Cores share the input channels. */
static void turn_weights(struct tcl_tile const *t, float *turned)
{
    struct tcl_part const *const w = &t->parts[TCL_W];
    int const kernel = t->layer->kernel_height * t->layer->kernel_width;
    int const num_in = w->num_columns, num_out = w->num_rows;
    int start, stop;
    tcl_split(num_in, &start, &stop);
    turned += start * num_out * kernel;
    for (int ci = start; ci < stop; ci++) {
        float const *from = w->data + ci * kernel;
        for (int co = 0; co < num_out; co++, from += num_in * kernel)
            for (int k = 0; k < kernel; k++)
                *turned++ = from[k];
    }
}

void tcl_tile_conv_ig(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, DY, W, DX);
    TCL_NEEDS_2(t, SCRATCH1, SCRATCH2);
    struct tcl_part const *const dx = &t->parts[TCL_DX], *const dy = &t->parts[TCL_DY];
    int const num_k = dy->num_rows * t->layer->kernel_height * t->layer->kernel_width;
    int const num_pixels = dx->num_columns * t->layer->in_width;
    struct tcl_gemm const g = {
        .a = tcl_data(t, TCL_SCRATCH2),
        .b = tcl_data(t, TCL_SCRATCH1),
        .base = t->first ? NULL : dx->data,
        .c = dx->data,
        .num_m = dx->num_rows,
        .num_n = num_pixels,
        .num_k = num_k,
        .a_m = num_k,
        .a_k = 1,
        .b_n = 1,
        .b_k = num_pixels,
        .c_m = num_pixels,
        .scale = 1.0f,
    };
    if (dy->changed || dx->moved)
        lay_out_gradients(t, tcl_data(t, TCL_SCRATCH1));
    if (t->parts[TCL_W].changed)
        turn_weights(t, tcl_data(t, TCL_SCRATCH2));
    port_barrier();
    tcl_fast_gemm_fp32(&g);
    tcl_tile_mask(t, dx->num_rows * num_pixels);
}

void tcl_tile_conv3_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, W, Y);
    struct tcl_part const *const x = &t->parts[TCL_X], *const y = &t->parts[TCL_Y];
    struct tcl_dw_tile const tile = tcl_dw_tile_of(t->layer, x, y, x->num_rows);
    tcl_fast_conv_fw_fp32(&tile, x->num_rows, y->num_rows, x->data, tcl_data(t, TCL_W), tcl_data(t, TCL_B),
                          y->data, (enum tcl_act)t->layer->act);
}

void tcl_tile_conv3_wg(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, DY, DW);
    struct tcl_part const *const x = &t->parts[TCL_X], *const dy = &t->parts[TCL_DY];
    struct tcl_dw_tile const tile = tcl_dw_tile_of(t->layer, x, dy, x->num_rows);
    tcl_fast_conv_wg_fp32(&tile, x->num_rows, dy->num_rows, x->data, dy->data, tcl_data(t, TCL_DW),
                          !t->first);
    tcl_tile_finish_wg(t, tile.y_stride, 9 * x->num_rows * dy->num_rows);
}
