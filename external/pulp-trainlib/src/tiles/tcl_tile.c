/* The loop over the tiles of one operation, with double-buffered DMA.

   Every operand belongs to one core, which says what its next tile is and starts its copies: 8 cores share
   this work evenly, and every core has a queue of the DMA of its own. */

#include "port_dma.h"
#include "tcl_run.h"
#include "tcl_split.h"
#include "tcl_tile.h"

/* What describes an operation is copied here, to L1: a core waits 15 cycles for a word of L2. There are two
   of all: of this operation and the next, of this tile and the next, in turn. */
struct walk {
    struct tcl_op op[2];
    struct tcl_operand operands[2][TCL_TILE_OPERANDS];
    struct tcl_tile tiles[2];
    unsigned char buffer[2][TCL_TILE_OPERANDS]; /* which one each operand uses in a tile */
    struct tcl_op const *at;                    /* this operation's place in L2 */
    int which;                                  /* of op and operands */
    int is_early;                               /* the early operands' first tiles are there */
};

/* Of one size on every target: the planner sets it aside. An object of its own, as what lies in the buffers
   are floats. */
static union {
    struct walk walk;
    char room[TCL_TILE_STATE_BYTES];
} tcl_l1_walk __attribute__((aligned(16), section(PORT_L1_SECTION)));

typedef char walk_fits[sizeof tcl_l1_walk == TCL_TILE_STATE_BYTES ? 1 : -1];

static struct tcl_op const *ahead; /* which operation is described in op[!which], its early operands there */

/* The part of a dimension; nothing of it starts within it too. */
static inline void take(struct tcl_span const *s, int const *index, int *start, int *num)
{
    if (s->loop < 0) {
        *start = 0;
        *num = s->size;
        return;
    }
    int const size = s->size, from = index[s->loop] * s->step - s->before;
    int first = from < 0 ? 0 : from, stop = from + s->step + s->more;
    first = first < size ? first : size;
    stop = stop < size ? stop : size;
    *start = first;
    *num = stop > first ? stop - first : 0;
}

/* A part that is empty lies nowhere. */
static inline int is_empty(struct tcl_part const *p)
{
    return p->num_columns == 0 || p->num_rows == 0;
}

/* Where a part lies in L2. */
static inline float *place(struct tcl_operand const *o, struct tcl_part const *p)
{
    return o->data + p->row * o->stride + p->column * o->unit;
}

static inline void load(struct tcl_operand const *o, struct tcl_part const *p)
{
    if (!is_empty(p))
        port_dma_load(p->data, place(o, p), p->num_columns * o->unit * 4, p->num_rows, o->stride * 4);
}

static inline void store(struct tcl_operand const *o, struct tcl_part const *p)
{
    if (!is_empty(p))
        port_dma_store(place(o, p), p->data, p->num_columns * o->unit * 4, p->num_rows, o->stride * 4);
}

/* Starts to fetch the description of an operation. */
static void fetch(struct walk *w, int which, struct tcl_op const *op, struct tcl_operand const *operands,
                  int num_operands)
{
    int const num_bytes = num_operands * (int)sizeof *operands;
    port_dma_load(&w->op[which], op, sizeof *op, 1, sizeof *op);
    port_dma_load(w->operands[which], operands, num_bytes, 1, num_bytes);
}

/* Says what tile n of operand i is and starts to load it, if the tile before was another and it is not there
   yet. */
static void prepare(struct walk *w, int i, int const *index, int n)
{
    struct tcl_operand const *const o = &w->operands[w->which][i];
    struct tcl_part *const p = &w->tiles[n & 1].parts[o->slot];
    struct tcl_part const *const old = &w->tiles[~n & 1].parts[o->slot];
    int const is_there = n == 0 && w->is_early && (o->flags & TCL_EARLY);
    take(&o->rows, index, &p->row, &p->num_rows);
    take(&o->columns, index, &p->column, &p->num_columns);
    p->moved = n == 0 || p->column != old->column || p->num_columns != old->num_columns;
    p->changed = p->moved || p->row != old->row || p->num_rows != old->num_rows;
    int const buffer = n == 0 ? 0 : w->buffer[~n & 1][i] ^ p->changed;
    w->buffer[n & 1][i] = (unsigned char)buffer;
    p->data = tcl_l1 + o->buffers[buffer] * TCL_TILE_ALIGNMENT;
    if (p->changed && (o->flags & TCL_LOAD) && !is_there)
        load(o, p);
}

/* Starts to store what tile n - 1 completed of operand i, if tile n is another or there is none. */
static void finish(struct walk *w, int i, int const *next, int n)
{
    struct tcl_operand const *const o = &w->operands[w->which][i];
    struct tcl_part const *const done = &w->tiles[~n & 1].parts[o->slot];
    if ((o->flags & TCL_STORE) && (!next || w->tiles[n & 1].parts[o->slot].changed))
        store(o, done);
}

/* Starts to load the first tile of operand i of the next operation, if it is loaded early. */
static void prepare_early(struct walk *w, int i)
{
    static int const zero[TCL_TILE_LOOPS];
    struct tcl_operand const *const o = &w->operands[!w->which][i];
    struct tcl_part p = {.data = tcl_l1 + o->buffers[0] * TCL_TILE_ALIGNMENT};
    if (!(o->flags & TCL_EARLY))
        return;
    take(&o->rows, zero, &p.row, &p.num_rows);
    take(&o->columns, zero, &p.column, &p.num_columns);
    load(o, &p);
}

static void advance(int *index, uint16_t const *counts)
{
    for (int i = TCL_TILE_LOOPS - 1; i >= 0; i--) {
        if (++index[i] < counts[i])
            return;
        index[i] = 0;
    }
}

/* Says whether tile n, at `index`, is the first or last of a sum. */
static void place_in_sum(struct walk *w, int const *index, int n)
{
    struct tcl_op const *const op = &w->op[w->which];
    struct tcl_tile *const tile = &w->tiles[n & 1];
    int first = 1, last = 1;
    for (int i = op->num_outer; i < TCL_TILE_LOOPS; i++) {
        first &= index[i] == 0;
        last &= index[i] == op->counts[i] - 1;
    }
    tile->layer = &op->layer;
    tile->first = first;
    tile->last = last;
}

/* What no operand of this operation is. */
static void clear(struct walk *w)
{
    int start, stop;
    tcl_split(TCL_SLOTS, &start, &stop);
    for (int slot = start; slot < stop; slot++)
        w->tiles[0].parts[slot] = w->tiles[1].parts[slot] = (struct tcl_part){0};
}

/* Waits until the copies of all cores are done. Of a profile, counts the cycles from when the last core has
   computed: core 0 alone reads the clock. */
#if defined TCL_PROFILE && TCL_PROFILE > 1
static void wait_for_copies(int group)
{
    int const counts = port_core_id() == 0;
    port_barrier();
    uint64_t const start = counts ? port_cycles() : 0;
    port_dma_wait(group);
    port_barrier();
    if (counts)
        tcl_waited += port_cycles() - start;
}

static void wait_for_last_copies(int group)
{
    wait_for_copies(group);
}
#else
static void wait_for_copies(int group)
{
    port_dma_wait(group);
    port_barrier();
}

/* The barrier is the fork's. */
static void wait_for_last_copies(int group)
{
    port_dma_wait(group);
}
#endif

static void run_tiles(void *walk)
{
    struct walk *const w = walk;
    struct tcl_op const *const op = &w->op[w->which];
    int const core = port_core_id(), num_operands = op->num_operands;
    int const num_tiles = op->counts[0] * op->counts[1] * op->counts[2];
    int index[TCL_TILE_LOOPS] = {0};
    clear(w);
    port_barrier();
    int group = port_dma_open();
    if (core == NUM_CORES - 1) {
        place_in_sum(w, index, 0);
        if (op->num_next)
            fetch(w, !w->which, w->at + 1, op->operands + num_operands, op->num_next);
    }
    for (int i = core; i < num_operands; i += NUM_CORES)
        prepare(w, i, index, 0);
    for (int n = 0; n < num_tiles; n++) {
        int const is_last = n + 1 == num_tiles;
        wait_for_copies(group);
        group = port_dma_open();
        if (n > 0)
            for (int i = core; i < num_operands; i += NUM_CORES)
                finish(w, i, index, n);
        advance(index, op->counts);
        if (!is_last) {
            for (int i = core; i < num_operands; i += NUM_CORES)
                prepare(w, i, index, n + 1);
            if (core == NUM_CORES - 1)
                place_in_sum(w, index, n + 1);
        } else if (op->num_next) {
            for (int i = core; i < op->num_next; i += NUM_CORES)
                prepare_early(w, i);
        }
        op->body(&w->tiles[n & 1]);
    }
    port_barrier();
    for (int i = core; i < num_operands; i += NUM_CORES)
        finish(w, i, NULL, num_tiles);
    wait_for_last_copies(group);
}

void tcl_tile_copy(void *to, void const *from, size_t num_bytes)
{
    size_t const room = (size_t)tcl_l1_bytes / 4 * 4, most = room < 65536 ? room : 65536;
    PORT_CHECK(num_bytes % 4 == 0 && ahead == NULL);
    for (size_t at = 0, num; at < num_bytes; at += num) {
        num = num_bytes - at < most ? num_bytes - at : most;
        int group = port_dma_open();
        port_dma_load(tcl_l1, (char const *)from + at, (int)num, 1, (int)num);
        port_dma_wait(group);
        group = port_dma_open();
        port_dma_store((char *)to + at, tcl_l1, (int)num, 1, (int)num);
        port_dma_wait(group);
    }
}

void tcl_tile_op(void *tcl_op)
{
    struct walk *const w = &tcl_l1_walk.walk;
    struct tcl_op const *const op = tcl_op;
    w->is_early = ahead == op;
    w->which = w->is_early ? !w->which : 0;
    if (!w->is_early) {
        int const group = port_dma_open();
        PORT_CHECK(op->num_operands > 0 && op->num_operands <= TCL_TILE_OPERANDS);
        fetch(w, w->which, op, op->operands, op->num_operands);
        port_dma_wait(group);
    }
    PORT_CHECK(w->op[w->which].body && w->op[w->which].num_next <= TCL_TILE_OPERANDS);
    w->at = op;
    ahead = w->op[w->which].num_next ? op + 1 : NULL;
    port_fork(run_tiles, w);
}
