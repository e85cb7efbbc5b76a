/* Every file is compiled with it for the PULP SDK. */
#ifndef SDK_H
#define SDK_H
#ifndef __ASSEMBLER__

#include <stddef.h>

/* In the SDK's C library, which does not declare it. */
int memcmp(const void *first, const void *second, size_t num_bytes);

/* What the SDK's linker script places in L1 and the SDK does not fill when it starts the cluster. */
#define PORT_L1_SECTION ".bss_l1"

/* Bytes of L1 that can be read behind that: the SDK takes the stacks from what follows. */
#define PORT_L1_BEHIND 4096

#endif
#endif
