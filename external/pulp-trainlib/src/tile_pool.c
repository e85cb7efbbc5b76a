/* Tiles of pooling: rows are channels, with their whole planes but where said. Cores share the channels. */

#include "pulp_pooling_fp32.h"
#include "tcl_fast_map_fp32.h"
#include "tcl_tile_body.h"

static void pool_avg(struct tcl_tile const *t, enum tcl_slot x, enum tcl_slot y, void (*kernel)(void *args))
{
    struct tcl_layer const *const l = t->layer;
    float *const in = tcl_data(t, x), *const out = tcl_data(t, y);
    struct blob input = {
        .data = in, .diff = in, .W = l->in_width, .H = l->in_height, .C = t->parts[x].num_rows};
    struct blob output = {
        .data = out, .diff = out, .W = l->out_width, .H = l->out_height, .C = t->parts[y].num_rows};
    struct pool_args args = {&input, &output, l->kernel_height, l->kernel_width, l->stride_h, l->stride_w};
    kernel(&args);
}

void tcl_tile_avgpool_fw(struct tcl_tile const *t)
{
    pool_avg(t, TCL_X, TCL_Y, pulp_avgpool_fp32_fw_cl);
}

void tcl_tile_avgpool_bw(struct tcl_tile const *t)
{
    pool_avg(t, TCL_DX, TCL_DY, pulp_avgpool_fp32_bw_cl);
}

static float share(struct tcl_layer const *l)
{
    return 1.0f / (float)(l->in_height * l->in_width);
}

/* Columns are some of a channel's pixels. */
void tcl_tile_globalpool_fw(struct tcl_tile const *t)
{
    struct tcl_part const *const x = &t->parts[TCL_X];
    float *const y = tcl_data(t, TCL_Y);
    int start, stop;
    tcl_fast_bias_act_bw_fp32(NULL, x->data, y, x->num_rows, x->num_columns, x->num_columns, x->num_columns,
                              !t->first, TCL_ACT_NONE);
    tcl_split(t->last ? x->num_rows : 0, &start, &stop); /* the same channels */
    for (int c = start; c < stop; c++)
        y[c] *= share(t->layer);
}

void tcl_tile_globalpool_bw(struct tcl_tile const *t)
{
    struct tcl_part const *const dx = &t->parts[TCL_DX];
    tcl_fast_avgpool_bw_fp32(tcl_data(t, TCL_DY), dx->data, dx->num_rows, dx->num_columns, dx->num_columns,
                             share(t->layer));
    tcl_tile_mask(t, dx->num_rows * dx->num_columns);
}

/* The index in plane x of the first maximum of the window of output (oy, ox). */
static int largest(struct tcl_layer const *l, float const *x, int oy, int ox)
{
    int const H = l->in_height, W = l->in_width;
    int const y0 = oy * l->stride_h - l->pad_top, x0 = ox * l->stride_w - l->pad_left;
    int const y_first = y0 > 0 ? y0 : 0, x_first = x0 > 0 ? x0 : 0;
    int const y_stop = y0 + l->kernel_height < H ? y0 + l->kernel_height : H;
    int const x_stop = x0 + l->kernel_width < W ? x0 + l->kernel_width : W;
    int best = y_first * W + x_first;
    for (int iy = y_first; iy < y_stop; iy++)
        for (int ix = x_first; ix < x_stop; ix++)
            if (x[iy * W + ix] > x[best])
                best = iy * W + ix;
    return best;
}

void tcl_tile_maxpool_fw(struct tcl_tile const *t)
{
    struct tcl_layer const *const l = t->layer;
    int const plane = l->in_height * l->in_width;
    float const *x = tcl_data(t, TCL_X);
    float *y = tcl_data(t, TCL_Y);
    int start, stop;
    tcl_split(t->parts[TCL_Y].num_rows, &start, &stop);
    x += start * plane;
    y += start * l->out_height * l->out_width;
    for (int c = start; c < stop; c++, x += plane)
        for (int oy = 0; oy < l->out_height; oy++)
            for (int ox = 0; ox < l->out_width; ox++)
                *y++ = x[largest(l, x, oy, ox)];
}

void tcl_tile_maxpool_bw(struct tcl_tile const *t)
{
    struct tcl_layer const *const l = t->layer;
    int const plane = l->in_height * l->in_width;
    float const *x = tcl_data(t, TCL_X), *dy = tcl_data(t, TCL_DY);
    float *dx = tcl_data(t, TCL_DX);
    int start, stop;
    tcl_split(t->parts[TCL_DX].num_rows, &start, &stop);
    x += start * plane;
    dx += start * plane;
    dy += start * l->out_height * l->out_width;
    for (int c = start; c < stop; c++, x += plane, dx += plane) {
        for (int i = 0; i < plane; i++)
            dx[i] = 0.0f;
        for (int oy = 0; oy < l->out_height; oy++)
            for (int ox = 0; ox < l->out_width; ox++)
                dx[largest(l, x, oy, ox)] += *dy++;
    }
}
