/* Tiles of pooling: rows are channels, with their whole planes but where said. Cores share the channels. */

#include "pulp_pooling_fp32.h"
#include "tcl_avgpool_fp32.h"
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
    TCL_NEEDS_2(t, X, Y);
    pool_avg(t, TCL_X, TCL_Y, pulp_avgpool_fp32_fw_cl);
}

void tcl_tile_avgpool_bw(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, DX, DY);
    pool_avg(t, TCL_DX, TCL_DY, pulp_avgpool_fp32_bw_cl);
}

/* What windows need below and on the right follows from the sizes. */
static void pool_avg_padded(struct tcl_tile const *t, enum tcl_slot x, enum tcl_slot y,
                            void (*kernel)(void *args))
{
    struct tcl_layer const *const l = t->layer;
    float *const in = tcl_data(t, x), *const out = tcl_data(t, y);
    struct blob input = {
        .data = in, .diff = in, .W = l->in_width, .H = l->in_height, .C = t->parts[x].num_rows};
    struct blob output = {
        .data = out, .diff = out, .W = l->out_width, .H = l->out_height, .C = t->parts[y].num_rows};
    struct tcl_avgpool_args args = {
        .input = &input,
        .output = &output,
        .Hker = l->kernel_height,
        .Wker = l->kernel_width,
        .Hstride = l->stride_h,
        .Wstride = l->stride_w,
        .Lpad = l->pad_left,
        .Rpad = (l->out_width - 1) * l->stride_w + l->kernel_width - l->in_width - l->pad_left,
        .Upad = l->pad_top,
        .Dpad = (l->out_height - 1) * l->stride_h + l->kernel_height - l->in_height - l->pad_top,
        .count_padding = l->count_padding,
    };
    kernel(&args);
}

void tcl_tile_avgpool_padded_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, X, Y);
    pool_avg_padded(t, TCL_X, TCL_Y, tcl_avgpool_fp32_fw_cl);
}

void tcl_tile_avgpool_padded_bw(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, DX, DY);
    pool_avg_padded(t, TCL_DX, TCL_DY, tcl_avgpool_fp32_bw_cl);
}

static float share(struct tcl_layer const *l)
{
    return 1.0f / (float)(l->in_height * l->in_width);
}

/* Columns are some of a channel's pixels. */
void tcl_tile_globalpool_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, X, Y);
    struct tcl_part const *const x = &t->parts[TCL_X];
    tcl_fast_avgpool_fw_fp32(x->data, tcl_data(t, TCL_Y), x->num_rows, x->num_columns, x->num_columns,
                             share(t->layer), !t->first);
}

void tcl_tile_globalpool_bw(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, DX, DY);
    struct tcl_part const *const dx = &t->parts[TCL_DX];
    tcl_fast_avgpool_bw_fp32(tcl_data(t, TCL_DY), dx->data, dx->num_rows, dx->num_columns, dx->num_columns,
                             share(t->layer));
    tcl_tile_mask(t, dx->num_rows * dx->num_columns);
}

void tcl_tile_maxpool_fw(struct tcl_tile const *t)
{
    TCL_NEEDS_2(t, X, Y);
    struct tcl_layer const *const l = t->layer;
    struct tcl_window const window = tcl_window_of_layer(l, l->in_height, l->out_height, l->pad_top);
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
                *y++ = x[tcl_window_largest(&window, x, oy, ox)];
}

void tcl_tile_maxpool_bw(struct tcl_tile const *t)
{
    TCL_NEEDS_3(t, X, DX, DY);
    struct tcl_layer const *const l = t->layer;
    struct tcl_window const window = tcl_window_of_layer(l, l->in_height, l->out_height, l->pad_top);
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
                dx[tcl_window_largest(&window, x, oy, ox)] += *dy++;
    }
}
