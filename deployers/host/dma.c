/* Copies between L2 and L1 on a host: done as late as they may be, so that a missing wait shows.

   Until the group is waited for the destination holds NaNs, and what changes in the source meanwhile is
   copied too. */

#include <pthread.h>
#include <string.h>

#include "port_dma.h"

enum { MAX_COPIES = 32 };

/* Rows of row_bytes, some bytes apart. */
struct copy {
    char *to;
    char const *from;
    int row_bytes, num_rows;
    int to_stride, from_stride;
};

static struct copy copies[NUM_CORES][MAX_COPIES]; /* of each core */
static int num_copies[NUM_CORES];
static int is_open[NUM_CORES];

int port_dma_open(void)
{
    int const core = port_core_id();
    PORT_CHECK(!is_open[core]);
    is_open[core] = 1;
    return core;
}

static void start(struct copy copy)
{
    int const core = port_core_id();
    PORT_CHECK(is_open[core] && num_copies[core] < MAX_COPIES);
    copies[core][num_copies[core]++] = copy;
    for (int row = 0; row < copy.num_rows; row++)
        memset(copy.to + (ptrdiff_t)row * copy.to_stride, 0xff, (size_t)copy.row_bytes);
}

void port_dma_load(void *l1, void const *l2, int row_bytes, int num_rows, int stride_bytes)
{
    port_dma_check(row_bytes, num_rows, stride_bytes);
    start((struct copy){l1, l2, row_bytes, num_rows, row_bytes, stride_bytes});
}

void port_dma_store(void *l2, void const *l1, int row_bytes, int num_rows, int stride_bytes)
{
    port_dma_check(row_bytes, num_rows, stride_bytes);
    start((struct copy){l2, l1, row_bytes, num_rows, stride_bytes, row_bytes});
}

void port_dma_wait(int group)
{
    PORT_CHECK(group == port_core_id() && is_open[group]);
    for (int i = 0; i < num_copies[group]; i++) {
        struct copy const c = copies[group][i];
        for (int row = 0; row < c.num_rows; row++)
            memcpy(c.to + (ptrdiff_t)row * c.to_stride, c.from + (ptrdiff_t)row * c.from_stride,
                   (size_t)c.row_bytes);
    }
    num_copies[group] = 0;
    is_open[group] = 0;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t all_here = PTHREAD_COND_INITIALIZER;
static unsigned num_barriers;
static int num_here;

void port_barrier(void)
{
    pthread_mutex_lock(&lock);
    unsigned const mine = num_barriers;
    if (++num_here == NUM_CORES) {
        num_here = 0;
        num_barriers++;
        pthread_cond_broadcast(&all_here);
    }
    while (num_barriers == mine)
        pthread_cond_wait(&all_here, &lock);
    pthread_mutex_unlock(&lock);
}
