/* Walks the tiles of one operation: inputs come to L1 and outputs go to L2 by DMA while the cores compute.

   An operation is a nest of loops over tiles; a body computes one tile. Operands that stay the same from one
   tile to the next stay in L1. What each operand's tile is follows from the loops' indices: see struct
   tcl_span. Everything in a table of operations was chosen, and checked, when it was emitted. */
#ifndef TCL_TILE_H
#define TCL_TILE_H

#include <stddef.h>
#include <stdint.h>

enum { TCL_TILE_LOOPS = 3, TCL_TILE_OPERANDS = 10, TCL_TILE_STATE_BYTES = 2560 };

/* What an operand is to the body. */
enum tcl_slot {
    TCL_X,
    TCL_W,
    TCL_B,
    TCL_Y,
    TCL_DY,
    TCL_DX,
    TCL_DW, /* none: the weights are updated by a sum that is stored nowhere, and that a tile has all of */
    TCL_DB,
    TCL_MASK,  /* output of the activation that dx is the gradient by */
    TCL_W_NEW, /* updated weights and biases */
    TCL_B_NEW,
    TCL_STATE1, /* of the optimizer; accumulated gradients */
    TCL_STATE2,
    TCL_STATE1_NEW,
    TCL_STATE2_NEW,
    TCL_SCRATCH1,
    TCL_SCRATCH2,
    TCL_SLOTS
};

/* Which part of one dimension a tile takes: of `size` elements those from index * step - before on, step +
   more in number, without those that lie outside. `loop` gives the index; -1: all is taken. */
struct tcl_span {
    int32_t step, size;
    int16_t before;
    int8_t more;
    int8_t loop;
};

enum { TCL_LOAD = 1, TCL_STORE = 2, TCL_EARLY = 4 }; /* the last: loaded while the operation before ends */

enum { TCL_TILE_ALIGNMENT = 4 }; /* of a buffer, in floats */

/* A tile is a number of rows (channels), `stride` floats apart in L2 and one behind the other in L1, each of
   a number of columns of `unit` floats. */
struct tcl_operand {
    float *data; /* in L2; NULL for what stays in L1 */
    struct tcl_span rows, columns;
    int32_t stride;
    uint16_t buffers[2]; /* from the start of tcl_l1, in alignments; twice the same: it is one */
    uint16_t unit;
    uint8_t slot, flags;
};

/* What a body has to know besides its tile. Sizes of images and windows are those of the whole layer. */
struct tcl_layer {
    float learning_rate, weight_decay; /* of plain SGD in the same operation */
    struct tcl_rule const *rule;       /* of all other updates */
    float slope;                       /* of leaky ReLU */
    float value;                       /* of padding */
    uint16_t in_height, in_width, out_height, out_width;
    uint16_t kernel_height, kernel_width, stride_h, stride_w;
    uint8_t pad_top, pad_left;
    uint8_t act;           /* enum tcl_act: applied to y, or (its derivative) to dx */
    uint8_t count_padding; /* averages are over the padding too */
};

struct tcl_tile;

/* Loops: outermost first; from number `num_outer` on they sum. Operations stand in an array, in the order in
   which they are done, and so do their operands. */
struct tcl_op {
    void (*body)(struct tcl_tile const *tile);
    struct tcl_operand const *operands;
    struct tcl_layer layer;
    uint16_t counts[TCL_TILE_LOOPS];
    uint8_t num_outer;
    uint8_t num_operands;
    uint8_t
        num_next; /* operands of the operation that follows in the array, 0 if another call comes before it */
};

/* An operand's tile in L1: rows row .. row + num_rows - 1, columns likewise. data is NULL if the body has no
   such operand. */
struct tcl_part {
    float *data;
    int row, num_rows;
    int column, num_columns;
    int changed; /* from the tile before */
    int moved;   /* the same, of the columns alone */
};

struct tcl_tile {
    struct tcl_layer const *layer;
    int first, last; /* of the tiles that are summed */
    struct tcl_part parts[TCL_SLOTS];
};

/* The buffers of tiles; a program with operations provides them. In the same memory TCL_TILE_STATE_BYTES are
   the walk's own. */
extern float tcl_l1[] __attribute__((weak));
extern int const tcl_l1_bytes;

/* Does one operation; a kernel for struct tcl_call. */
void tcl_tile_op(void *tcl_op);

/* Copies within L2, through the buffers, by DMA: on pulp-open some 30 times faster than a core's loads and
   stores. Both are aligned to 4 bytes and do not overlap, num_bytes is a multiple of 4. Between operations
   only: no early operand of one to come may be there. */
void tcl_tile_copy(void *to, void const *from, size_t num_bytes);

/* Bodies. Every core of the team calls them. */
void tcl_tile_pw_fw(struct tcl_tile const *tile);
void tcl_tile_pw_ig(struct tcl_tile const *tile);
void tcl_tile_pw_wg(struct tcl_tile const *tile);
void tcl_tile_dw_fw(struct tcl_tile const *tile);
void tcl_tile_dw_ig(struct tcl_tile const *tile);
void tcl_tile_dw_wg(struct tcl_tile const *tile);
void tcl_tile_conv_fw(struct tcl_tile const *tile);
void tcl_tile_conv_ig(struct tcl_tile const *tile);
void tcl_tile_conv_wg(struct tcl_tile const *tile);
void tcl_tile_conv3_fw(struct tcl_tile const *tile);
void tcl_tile_conv3_wg(struct tcl_tile const *tile);
void tcl_tile_group_fw(struct tcl_tile const *tile);
void tcl_tile_group_ig(struct tcl_tile const *tile);
void tcl_tile_group_wg(struct tcl_tile const *tile);
void tcl_tile_bias_wg(struct tcl_tile const *tile);
void tcl_tile_avgpool_fw(struct tcl_tile const *tile);
void tcl_tile_avgpool_bw(struct tcl_tile const *tile);
void tcl_tile_avgpool_padded_fw(struct tcl_tile const *tile);
void tcl_tile_avgpool_padded_bw(struct tcl_tile const *tile);
void tcl_tile_globalpool_fw(struct tcl_tile const *tile);
void tcl_tile_globalpool_bw(struct tcl_tile const *tile);
void tcl_tile_maxpool_fw(struct tcl_tile const *tile);
void tcl_tile_maxpool_bw(struct tcl_tile const *tile);
void tcl_tile_pad_fw(struct tcl_tile const *tile);
void tcl_tile_pad_bw(struct tcl_tile const *tile);
void tcl_tile_move(struct tcl_tile const *tile);
void tcl_tile_fill(struct tcl_tile const *tile);
void tcl_tile_add(struct tcl_tile const *tile);
void tcl_tile_relu_fw(struct tcl_tile const *tile);
void tcl_tile_relu_bw(struct tcl_tile const *tile);
void tcl_tile_sigmoid_fw(struct tcl_tile const *tile);
void tcl_tile_sigmoid_bw(struct tcl_tile const *tile);
void tcl_tile_silu_fw(struct tcl_tile const *tile);
void tcl_tile_silu_bw(struct tcl_tile const *tile);
void tcl_tile_hardsigmoid_fw(struct tcl_tile const *tile);
void tcl_tile_hardsigmoid_bw(struct tcl_tile const *tile);
void tcl_tile_hardswish_fw(struct tcl_tile const *tile);
void tcl_tile_hardswish_bw(struct tcl_tile const *tile);
void tcl_tile_leaky_relu_fw(struct tcl_tile const *tile);
void tcl_tile_leaky_relu_bw(struct tcl_tile const *tile);
void tcl_tile_scale(struct tcl_tile const *tile);
void tcl_tile_scale_wg(struct tcl_tile const *tile);
void tcl_tile_descend(struct tcl_tile const *tile);
void tcl_tile_sgd(struct tcl_tile const *tile);
void tcl_tile_adam(struct tcl_tile const *tile);
void tcl_tile_adamw(struct tcl_tile const *tile);
void tcl_tile_accumulate(struct tcl_tile const *tile);

#endif
