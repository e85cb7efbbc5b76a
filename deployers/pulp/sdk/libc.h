/* What the PULP SDK's C library has but its headers do not declare. Every file is compiled with it. */
#ifndef LIBC_H
#define LIBC_H
#ifndef __ASSEMBLER__

#include <stddef.h>

int memcmp(const void *first, const void *second, size_t num_bytes);

#endif
#endif
