/* Runs each case of cases.h, one kernel on one tile, and writes its cycles and the arena that it left.

   A record is: cycles of the last run, number of words, the words. Before each run the arena is filled with
   numbers in [-8, 8) that follow from their place and the case. */

#include "tcl_fast.h"
#include "port.h"

#include "cases.h"

static void fill(uint32_t number, int num_words)
{
    for (int i = 0; i < num_words; i++) {
        uint32_t x = (uint32_t)i * 2654435761u + number * 40503u + 1u;
        x ^= x >> 15;
        x *= 2246822519u;
        x ^= x >> 13;
        arena[i] = (float)((int32_t)x >> 8) * (1.0f / 1048576.0f);
    }
}

static uint32_t cycles;

static void run(void (*body)(void *))
{
    uint64_t const before = port_cycles();
    port_fork(body, NULL);
    cycles = (uint32_t)(port_cycles() - before);
}

void tcl_main(void)
{
    for (unsigned i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        for (int j = 0; j < NUM_RUNS; j++) {
            fill(i, cases[i].num_words);
            run(cases[i].body);
        }
        uint32_t const header[2] = {cycles, (uint32_t)cases[i].num_words};
        port_write(header, sizeof header);
        port_write(arena, sizeof(float) * (size_t)cases[i].num_words);
    }
}
