/* What a target provides. A port is this header's functions, a linker script where one is needed, and
 * port.mk. */
#ifndef PORT_H
#define PORT_H

#include <stddef.h>
#include <stdint.h>

#ifndef NUM_CORES
#error "NUM_CORES: the build defines how many cores the cluster uses"
#endif

/* The program, provided by the application. The port calls it once, on core 0, with the other cores waiting.
 */
void tcl_main(void);

/* The number of the calling core, 0 .. NUM_CORES - 1. */
int port_core_id(void);

/* Runs body(arg) once on every core and returns when all are done. Only core 0 may call it, and not from a
   body. What a core wrote before is seen by all cores after. */
void port_fork(void (*body)(void *), void *arg);

/* A clock that counts up; its unit is the target's (cycles on a chip). */
uint64_t port_cycles(void);

/* Appends bytes, at least one, to the result stream, the file results.bin of the run. Only core 0 may call
 * it. */
void port_write(void const *data, size_t num_bytes);

/* Storage that outlives the program: a file on a machine that has files, a part of the flash on a board. Only
   core 0 may use it. port_open returns the number of the storage of this name, which exists; of what was
   never written nothing can be read. */
int port_open(char const *name);

/* Reads from `offset` on; returns how many bytes there were, less than `num_bytes` at the end. */
size_t port_read_at(int region, uint64_t offset, void *data, size_t num_bytes);

/* Writes. A cut in between leaves the place with any mixture of old and new; what was written stays when the
   program ends, but when power fails only what port_sync was called for. */
void port_write_at(int region, uint64_t offset, void const *data, size_t num_bytes);

/* Returns when all that was written to a storage is on its medium. */
void port_sync(int region);

/* Ends the program with a failure and names the place. Any core may call it. */
void port_panic(char const *file, int line) __attribute__((noreturn));

/* Checks a kernel's contract, also in optimised builds: a call costs few checks and thousands of cycles. */
#define PORT_CHECK(condition) ((condition) ? (void)0 : port_panic(__FILE__, __LINE__))

#endif
