/* Copies between L2 and L1 on a host: done as late as they may be, so that a missing wait shows.

   Until the group is waited for the destination holds NaNs, and what changes in the source meanwhile is
   copied too. */

#include <pthread.h>
#include <string.h>

#include "port_dma.h"

enum { MAX_COPIES = 32 };

struct copy {
    char *l1, *l2;
    int row_bytes, num_rows, stride_bytes;
    enum port_dma_direction direction;
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

void port_dma_start(void *l1, void *l2, int row_bytes, int num_rows, int stride_bytes,
                    enum port_dma_direction direction)
{
    int const core = port_core_id();
    PORT_CHECK(is_open[core] && num_copies[core] < MAX_COPIES);
    port_dma_check(row_bytes, num_rows, stride_bytes);
    copies[core][num_copies[core]++] = (struct copy){l1, l2, row_bytes, num_rows, stride_bytes, direction};
    for (int i = 0; i < num_rows; i++) {
        char *const row = direction == PORT_DMA_LOAD ? (char *)l1 + i * row_bytes
                                                     : (char *)l2 + (ptrdiff_t)i * stride_bytes;
        memset(row, 0xff, (size_t)row_bytes);
    }
}

void port_dma_wait(int group)
{
    PORT_CHECK(group == port_core_id() && is_open[group]);
    for (int i = 0; i < num_copies[group]; i++) {
        struct copy const c = copies[group][i];
        for (int row = 0; row < c.num_rows; row++) {
            char *const l1 = c.l1 + row * c.row_bytes, *const l2 = c.l2 + (ptrdiff_t)row * c.stride_bytes;
            if (c.direction == PORT_DMA_LOAD)
                memcpy(l1, l2, (size_t)c.row_bytes);
            else
                memcpy(l2, l1, (size_t)c.row_bytes);
        }
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
