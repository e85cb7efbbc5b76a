/* Kernels on arrays that begin at the lowest address there is: a pointer formed far before one wraps around,
   which -fsanitize=pointer-overflow sees. Rows of the images are longer than the address is high. */

#define _GNU_SOURCE

#include <stdio.h>
#include <sys/mman.h>

#include "port.h"
#include "tcl_fast.h"
#include "tcl_tile.h"
#include "tcl_window.h"

static float *lowest(void)
{
    unsigned long address = 0;
    FILE *const file = fopen("/proc/sys/vm/mmap_min_addr", "r");
    PORT_CHECK(file && fscanf(file, "%lu", &address) == 1);
    fclose(file);
    address = address < 4096 ? 4096 : address;
    PORT_CHECK(address < 4 * LOW_WIDTH);
    void *const low = mmap((void *)address, 16 * 4 * LOW_WIDTH, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    PORT_CHECK(low != MAP_FAILED);
    return low;
}

/* Of the walk, which is linked too. */
float tcl_l1[4];
int const tcl_l1_bytes = sizeof tcl_l1;

static float others[4 * LOW_WIDTH + 64], columns[9 * 2 * LOW_WIDTH], weights[64];

/* A window as wide as the image, of which nearly half lies before it. */
static void plain(float const *low)
{
    struct tcl_window const w = {1, LOW_WIDTH, 1, 1, 1, 2 * LOW_WIDTH, 1, 1, 0, LOW_WIDTH - 1};
    PORT_CHECK(tcl_window_fw(&w, low, others, 0, 0) == 0.0f);
    PORT_CHECK(tcl_window_wg(&w, low, others, 0, LOW_WIDTH) == 0.0f);
    PORT_CHECK(tcl_window_ig(&w, low, others, 0, 0) == 0.0f);
    PORT_CHECK(tcl_window_largest(&w, low, 0, 0) == 0);
}

/* One channel, 3x3, padding 1: rows 0 to 1 of the image. */
static struct tcl_tile tile_of(enum tcl_slot low_slot, float *low, enum tcl_slot other)
{
    static struct tcl_layer const layer = {.in_height = 2,
                                           .in_width = LOW_WIDTH,
                                           .out_height = 2,
                                           .out_width = LOW_WIDTH,
                                           .kernel_height = 3,
                                           .kernel_width = 3,
                                           .stride_h = 1,
                                           .stride_w = 1,
                                           .pad_top = 1,
                                           .pad_left = 1};
    struct tcl_tile tile = {.layer = &layer, .first = 1, .last = 1};
    struct tcl_part const rows = {.num_rows = 1, .num_columns = 2, .changed = 1, .moved = 1};
    tile.parts[low_slot] = tile.parts[other] = rows;
    tile.parts[low_slot].data = low;
    tile.parts[other].data = others;
    tile.parts[TCL_W] = tile.parts[TCL_DW] = (struct tcl_part){weights, 0, 1, 0, 1, 1, 1};
    tile.parts[TCL_SCRATCH1].data = columns;
    tile.parts[TCL_SCRATCH2].data = weights + 32;
    return tile;
}

static void on_tiles(void *low)
{
    static struct tcl_dw_tile const t = {
        .num_channels = 1,
        .x_stride = 2 * LOW_WIDTH,
        .y_stride = 2 * LOW_WIDTH,
        .window = {2, LOW_WIDTH, 2, LOW_WIDTH, 3, 3, 1, 1, 1, 1},
    };
    struct tcl_tile tile = tile_of(TCL_X, low, TCL_Y);
    tcl_tile_conv_fw(&tile);
    tcl_tile_dw_fw(&tile);
    tile = tile_of(TCL_X, low, TCL_DY);
    tcl_tile_conv_wg(&tile);
    tcl_tile_dw_wg(&tile);
    tile = tile_of(TCL_DY, low, TCL_DX);
    tcl_tile_conv_ig(&tile);
    tcl_tile_dw_ig(&tile);
    tcl_fast_dw_fw_fp32(&t, low, weights, NULL, others, TCL_ACT_NONE);
    tcl_fast_dw_wg_fp32(&t, low, others, weights, 0);
    tcl_fast_dw_ig_fp32(&t, low, weights, others);
}

void tcl_main(void)
{
    float *const low = lowest();
    plain(low);
    port_fork(on_tiles, low);
    port_write("", 1);
}
