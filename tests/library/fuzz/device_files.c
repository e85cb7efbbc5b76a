/* Fuzzes the device's file readers: the input is cut into the three files that a program finds at its start.

   With libFuzzer:  clang -fsanitize=fuzzer,address,undefined -DNUM_CORES=1 -Iexternal/pulp-trainlib/include
                    tests/library/fuzz/device_files.c external/pulp-trainlib/src/run/tcl_files.c
   With -DREPLAY it has a main() that runs the files it is given, for any compiler.

   Input: a byte of flags, two 16-bit lengths (samples file, slot 0), then the bytes of the files, slot 1
   last. The flags say which CRCs are put right first, so that what lies behind a CRC is reached too. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "port.h"
#include "tcl_files.h"

enum {
    MOST_BYTES = 4096,
    CHANNELS = 1,
    HEIGHT = 2,
    WIDTH = 3,
    NUM_CLASSES = 4,
    STATE_WORDS = 70,
    TRAINED_BYTES = 4 * 50
};
enum { PUT_RIGHT_SAMPLES_HEADER = 1, PUT_RIGHT_SAMPLES = 2, PUT_RIGHT_SLOTS = 4 };

static struct {
    unsigned char bytes[MOST_BYTES];
    size_t num_bytes;
} files[3];

int port_open(char const *name)
{
    static char const *const names[3] = {"samples.bin", "slot0.bin", "slot1.bin"};
    for (int i = 0; i < 3; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    abort();
}

size_t port_read_at(int region, uint64_t offset, void *data, size_t num_bytes)
{
    size_t const size = files[region].num_bytes;
    size_t const left = offset < size ? size - (size_t)offset : 0;
    size_t const num = num_bytes < left ? num_bytes : left;
    if (num > 0)
        memcpy(data, files[region].bytes + offset, num);
    return num;
}

void port_write_at(int region, uint64_t offset, void const *data, size_t num_bytes)
{
    if (offset + num_bytes > MOST_BYTES)
        abort();
    memcpy(files[region].bytes + offset, data, num_bytes);
    if (offset + num_bytes > files[region].num_bytes)
        files[region].num_bytes = (size_t)offset + num_bytes;
}

void port_sync(int region)
{
    (void)region;
}

void port_panic(char const *file, int line)
{
    fprintf(stderr, "%s:%d: check failed: a reader worked with what it should have refused\n", file, line);
    abort();
}

static void put(unsigned char *place, uint32_t value)
{
    memcpy(place, &value, sizeof value);
}

static void put_right(int flags)
{
    enum { RECORD = 4 * CHANNELS * HEIGHT * WIDTH + 8 };
    if (flags & PUT_RIGHT_SAMPLES_HEADER && files[0].num_bytes >= 64)
        put(files[0].bytes + 60, tcl_crc32(0, files[0].bytes, 60));
    for (size_t at = 64; flags & PUT_RIGHT_SAMPLES && at + RECORD <= files[0].num_bytes; at += RECORD)
        put(files[0].bytes + at + RECORD - 4, tcl_crc32(0, files[0].bytes + at, RECORD - 4));
    for (int i = 1; flags & PUT_RIGHT_SLOTS && i < 3; i++)
        if (files[i].num_bytes >= 68)
            put(files[i].bytes + files[i].num_bytes - 4,
                tcl_crc32(0, files[i].bytes, files[i].num_bytes - 4));
}

static uint32_t word(int i, int number)
{
    uint32_t value;
    memcpy(&value, files[i].bytes + 4 * number, sizeof value);
    return value;
}

/* Tells whether a slot was written to its end. */
static int is_whole(int i)
{
    if (files[i].num_bytes < 68 || memcmp(files[i].bytes, "TCLS", 4) != 0)
        return 0;
    uint64_t const end = (uint64_t)64 + word(i, 12) + word(i, 13);
    if (end + 4 > files[i].num_bytes)
        return 0;
    uint32_t crc;
    memcpy(&crc, files[i].bytes + end, sizeof crc);
    return crc == tcl_crc32(0, files[i].bytes, (size_t)end);
}

/* Tells whether a whole slot is one of this run, which is number 1 with samples 2. */
static int is_ours(int i)
{
    uint32_t const wanted[5] = {2, 1, 0, 2, 0};
    return memcmp(files[i].bytes + 4, wanted, sizeof wanted) == 0 && word(i, 12) == TRAINED_BYTES &&
           word(i, 13) == 4 * STATE_WORDS - TRAINED_BYTES;
}

/* A slot that is whole and ours must be found, whatever is left of the other. */
static void check_refusal(void)
{
    int num_ours = 0, num_others = 0;
    for (int i = 1; i < 3; i++) {
        num_ours += is_whole(i) && is_ours(i);
        num_others += is_whole(i) && !is_ours(i);
    }
    if (num_ours > 0 && num_others == 0)
        abort();
}

static void read_samples(struct tcl_samples *samples)
{
    uint64_t const num = samples->num_train + samples->num_test;
    for (uint64_t i = 0; i < num && i < 8; i++) {
        /* An image of its own on the heap: a byte too much is seen. */
        float *image = malloc(sizeof(float) * CHANNELS * HEIGHT * WIDTH);
        uint32_t label = 0;
        if (tcl_samples_read(samples, i < 4 ? i : num - i + 3, image, &label) == TCL_ACCEPTED &&
            label >= NUM_CLASSES)
            abort();
        free(image);
    }
    if (tcl_shuffled(0, samples->num_train, num, samples->id) >= samples->num_train)
        abort();
}

int LLVMFuzzerTestOneInput(uint8_t const *data, size_t num_bytes)
{
    if (num_bytes < 5)
        return 0;
    size_t left = num_bytes - 5;
    uint8_t const *from = data + 5;
    for (int i = 0; i < 3; i++) {
        size_t const wanted = i < 2 ? data[1 + 2 * i] | (size_t)data[2 + 2 * i] << 8 : left;
        size_t const size = wanted < left ? wanted : left;
        files[i].num_bytes = size < MOST_BYTES ? size : MOST_BYTES;
        memcpy(files[i].bytes, from, files[i].num_bytes);
        from += size;
        left -= size;
    }
    put_right(data[0]);
    struct tcl_samples samples = {.shape = {CHANNELS, HEIGHT, WIDTH}, .num_classes = NUM_CLASSES};
    if (tcl_samples_open(&samples) == TCL_ACCEPTED)
        read_samples(&samples);
    float *state = calloc(STATE_WORDS, sizeof *state);
    struct tcl_slots slots = {.run = 1, .samples = 2};
    slots.blocks[0] = (struct tcl_block){state, TRAINED_BYTES};
    slots.blocks[1] = (struct tcl_block){(char *)state + TRAINED_BYTES, 4 * STATE_WORDS - TRAINED_BYTES};
    struct tcl_position position = {0, 0};
    tcl_slots_open(&slots);
    if (tcl_slots_load(&slots, &position) == TCL_ACCEPTED) {
        /* What was loaded must be what a save and a load give again. */
        struct tcl_position again = {0, 0};
        tcl_slots_save(&slots, &position);
        if (tcl_slots_load(&slots, &again) != TCL_ACCEPTED || again.epoch != position.epoch ||
            again.step != position.step)
            abort();
    } else {
        check_refusal();
    }
    free(state);
    return 0;
}

#ifdef REPLAY
int main(int num, char **names)
{
    static uint8_t content[1 << 16];
    for (int i = 1; i < num; i++) {
        FILE *file = fopen(names[i], "rb");
        if (!file)
            return 2;
        size_t const num_bytes = fread(content, 1, sizeof content, file);
        fclose(file);
        /* A copy of just its size: reading behind it is seen. */
        uint8_t *copy = malloc(num_bytes ? num_bytes : 1);
        memcpy(copy, content, num_bytes);
        LLVMFuzzerTestOneInput(copy, num_bytes);
        free(copy);
    }
    printf("%d inputs\n", num - 1);
    return 0;
}
#endif
