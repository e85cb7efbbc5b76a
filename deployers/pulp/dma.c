/* The cluster's DMA (MCHAN) and its barrier, as each core of the cluster sees them. */

#include "port_dma.h"

#define REGISTER(address) (*(uint32_t volatile *)(address))
#define DMA_COMMAND REGISTER(0x10204400) /* load: number of a new group; stores: a command, word by word */
#define DMA_STATUS REGISTER(0x10204404)  /* load: bit of a group: under way; store: frees groups */
#define EVENT_UNIT 0x10204000

enum { TO_L1 = 1 << 17, INCREMENT = 1 << 18, IN_ROWS = 1 << 19 }; /* above the size */

int port_dma_open(void)
{
    return (int)DMA_COMMAND;
}

static inline void start(uint32_t l1, uint32_t l2, int row_bytes, int num_rows, int stride_bytes,
                         uint32_t direction)
{
    port_dma_check(row_bytes, num_rows, stride_bytes);
    int const in_rows = num_rows > 1 && row_bytes != stride_bytes;
    uint32_t const size = (uint32_t)row_bytes * (uint32_t)num_rows;
    DMA_COMMAND = size | direction | INCREMENT | (in_rows ? IN_ROWS : 0);
    DMA_COMMAND = l1;
    DMA_COMMAND = l2;
    if (in_rows) {
        DMA_COMMAND = (uint32_t)row_bytes;
        DMA_COMMAND = (uint32_t)stride_bytes;
    }
}

void port_dma_load(void *l1, void const *l2, int row_bytes, int num_rows, int stride_bytes)
{
    start((uint32_t)l1, (uint32_t)l2, row_bytes, num_rows, stride_bytes, TO_L1);
}

void port_dma_store(void *l2, void const *l1, int row_bytes, int num_rows, int stride_bytes)
{
    start((uint32_t)l1, (uint32_t)l2, row_bytes, num_rows, stride_bytes, 0);
}

void port_dma_wait(int group)
{
    uint32_t const bit = 1u << group;
    while (DMA_STATUS & bit)
        ;
    DMA_STATUS = bit;
    __asm__ volatile("" ::: "memory");
}

void port_barrier(void)
{
    uint32_t ignored;
    if (NUM_CORES > 1)
        __asm__ volatile(".insn i 0x03, 6, %0, %1, 0x21c" : "=r"(ignored) : "r"(EVENT_UNIT) : "memory");
}
