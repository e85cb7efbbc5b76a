/* What a target provides beside port.h to compute on tiles: copies between L2 and L1, and a barrier. On a
   target without a DMA the same calls copy on the spot. */
#ifndef PORT_DMA_H
#define PORT_DMA_H

#include "port.h"

/* Where the linker finds the memory of tiles. */
#ifndef PORT_L1_SECTION
#define PORT_L1_SECTION ".bss.l1"
#endif

/* Opens a group of copies of the calling core and returns its number; a core has one open at a time. */
int port_dma_open(void);

/* Of one copy. */
enum { PORT_DMA_MOST_BYTES = 131071 };

/* Starts a copy in the core's group, from L2 to L1: num_rows rows of row_bytes, which lie one behind the
   other in L1 and stride_bytes apart in L2; addresses and sizes are multiples of 4, a copy is
   PORT_DMA_MOST_BYTES at most. What is copied must stay as it is until the group was waited for. */
void port_dma_load(void *l1, void const *l2, int row_bytes, int num_rows, int stride_bytes);

/* The same from L1 to L2. */
void port_dma_store(void *l2, void const *l1, int row_bytes, int num_rows, int stride_bytes);

/* The contract of both, which every port checks. */
static inline void port_dma_check(int row_bytes, int num_rows, int stride_bytes)
{
    uint64_t const num_bytes =
        (uint64_t)(uint32_t)row_bytes * (uint32_t)num_rows; /* of 0, and below, too large */
    PORT_CHECK(num_bytes - 1 < PORT_DMA_MOST_BYTES && ((row_bytes | stride_bytes) & 3) == 0);
}

/* Waits until all copies of the group are done, and closes it. */
void port_dma_wait(int group);

/* Waits until every core is here. Every core must call it, in a body run by port_fork. */
void port_barrier(void);

#endif
