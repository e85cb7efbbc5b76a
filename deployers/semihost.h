/* Semihosting: the result stream and the last words of bare-metal targets reach the machine that simulates
 * them. */
#ifndef SEMIHOST_H
#define SEMIHOST_H

/* Creates results.bin; port_write appends to it. Call once, before tcl_main(). */
void semihost_create_results(void);

/* Ends the program; the simulator's exit status is 0 exactly when `status` is. Each target provides it. */
void port_stop(unsigned status) __attribute__((noreturn));

/* Where traps lead. */
void port_trap(void) __attribute__((noreturn));

#endif
