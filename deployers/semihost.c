/* Semihosting, by the RISC-V semihosting specification (Arm's numbers for operations and modes).

   Only operations whose parameter blocks QEMU and GVSoC read alike are used. */

#include "port.h"
#include "semihost.h"

enum { OPEN = 0x01, WRITE0 = 0x04, WRITE = 0x05 };
enum { MODE_WB = 5 };

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

void semihost_create_results(void)
{
    static char const name[] = "results.bin";
    intptr_t const block[3] = {(intptr_t)name, MODE_WB, sizeof name - 1};
    results = semihost_call(OPEN, block);
    PORT_CHECK(results >= 0);
}

void port_write(void const *data, size_t num_bytes)
{
    intptr_t const block[3] = {results, (intptr_t)data, (intptr_t)num_bytes};
    PORT_CHECK(semihost_call(WRITE, block) == 0); /* it returns how many bytes were not written */
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
