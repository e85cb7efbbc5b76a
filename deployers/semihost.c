/* Semihosting, by the RISC-V semihosting specification (Arm's numbers for operations and modes).

   Only operations whose parameter blocks QEMU and GVSoC read alike are used. */

#include <string.h>

#include "port.h"
#include "semihost.h"

enum { OPEN = 0x01, WRITE0 = 0x04, WRITE = 0x05, READ = 0x06, SEEK = 0x0A };
enum { MODE_RB_PLUS = 3, MODE_WB = 5 };

static intptr_t results;

/* The markers around ebreak must be uncompressed and, for QEMU, lie on one page. */
intptr_t semihost_call(intptr_t operation, void const *parameters);
__asm__(".section .text.semihost_call, \"ax\", @progbits\n"
        ".option push\n"
        ".option norvc\n"
        ".option norelax\n"
        ".balign 16\n"
        ".globl semihost_call\n"
        "semihost_call:\n"
        "    slli x0, x0, 0x1f\n"
        "    ebreak\n"
        "    srai x0, x0, 7\n"
        "    ret\n"
        ".option pop\n"
        ".text\n");

static intptr_t open_file(char const *name, intptr_t mode)
{
    intptr_t const block[3] = {(intptr_t)name, mode, (intptr_t)strlen(name)};
    intptr_t const file = semihost_call(OPEN, block);
    PORT_CHECK(file >= 0);
    return file;
}

static void write_all(intptr_t file, void const *data, size_t num_bytes)
{
    intptr_t const block[3] = {file, (intptr_t)data, (intptr_t)num_bytes};
    PORT_CHECK(semihost_call(WRITE, block) == 0); /* it returns how many bytes were not written */
}

/* Offsets of semihosting are as wide as an address. */
static void seek(intptr_t file, uint64_t offset)
{
    PORT_CHECK(offset <= INTPTR_MAX);
    intptr_t const block[2] = {file, (intptr_t)offset};
    PORT_CHECK(semihost_call(SEEK, block) == 0);
}

void semihost_create_results(void)
{
    results = open_file("results.bin", MODE_WB);
}

int port_open(char const *name)
{
    return (int)open_file(name, MODE_RB_PLUS);
}

size_t port_read_at(int region, uint64_t offset, void *data, size_t num_bytes)
{
    intptr_t const block[3] = {region, (intptr_t)data, (intptr_t)num_bytes};
    if (offset > INTPTR_MAX)
        return 0;
    seek(region, offset);
    intptr_t const missing = semihost_call(READ, block); /* how many bytes were not read */
    PORT_CHECK(missing >= 0 && (size_t)missing <= num_bytes);
    return num_bytes - (size_t)missing;
}

void port_write_at(int region, uint64_t offset, void const *data, size_t num_bytes)
{
    seek(region, offset);
    write_all(region, data, num_bytes);
}

/* Semihosting has no such operation: files are those of the machine that simulates, which stays on. */
void port_sync(int region)
{
    (void)region;
}

void port_write(void const *data, size_t num_bytes)
{
    write_all(results, data, num_bytes);
}

void port_panic(char const *file, int line)
{
    char digits[12];
    int i = sizeof digits - 1;
    digits[i] = 0;
    do {
        digits[--i] = (char)('0' + line % 10);
        line /= 10;
    } while (line > 0);
    semihost_call(WRITE0, file);
    semihost_call(WRITE0, ":");
    semihost_call(WRITE0, digits + i);
    semihost_call(WRITE0, ": check failed\n");
    port_stop(1);
}

void port_trap(void)
{
    semihost_call(WRITE0, "trap: the program made an illegal access or instruction\n");
    port_stop(1);
}
