/* Reads and writes the device's files: samples, checkpoint slots, log. */

#include <string.h>

#include "port.h"
#include "tcl_files.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the device's files are little endian"
#endif

enum { SAMPLES_VERSION = 1, SLOT_VERSION = 2 };
enum { HEADER_WORDS = 16, HEADER_BYTES = 4 * HEADER_WORDS, CRC_BYTES = 4 };
#define SAMPLES_MAGIC 0x444c4354u /* "TCLD" */
#define SLOT_MAGIC 0x534c4354u    /* "TCLS" */

/* Words of the samples file's header; those that are not named are 0. Two words: low first. */
enum {
    SAMPLES_SHAPE = 2,
    SAMPLES_CLASSES = 5,
    SAMPLES_NUM_TRAIN = 6,
    SAMPLES_NUM_TEST = 8,
    SAMPLES_ID = 10,
    SAMPLES_CRC = 15
};

/* Words of a slot's header. Behind it: the blocks, and the CRC of all. */
enum {
    SLOT_RUN = 2,
    SLOT_SAMPLES = 4,
    SLOT_SEQUENCE = 6,
    SLOT_EPOCH = 8,
    SLOT_STEP = 10,
    SLOT_NUM_BYTES = 12 /* one word a block */
};

uint32_t tcl_crc32(uint32_t crc, void const *data, size_t num_bytes)
{
    /* Remainders of the 16 values of four bits: a table of 64 bytes. */
    static uint32_t const table[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
    };
    unsigned char const *byte = data;
    crc = ~crc;
    for (size_t i = 0; i < num_bytes; i++) {
        crc ^= byte[i];
        crc = crc >> 4 ^ table[crc & 15];
        crc = crc >> 4 ^ table[crc & 15];
    }
    return ~crc;
}

static uint64_t two_words(uint32_t const *words)
{
    return (uint64_t)words[1] << 32 | words[0];
}

static void set_two_words(uint32_t *words, uint64_t value)
{
    words[0] = (uint32_t)value;
    words[1] = (uint32_t)(value >> 32);
}

/* --- samples --- */

static uint64_t image_bytes(struct tcl_samples const *samples)
{
    return (uint64_t)4 * samples->shape[0] * samples->shape[1] * samples->shape[2];
}

/* The image, the class and the CRC of both. */
static uint64_t sample_bytes(struct tcl_samples const *samples)
{
    return image_bytes(samples) + 4 + CRC_BYTES;
}

enum tcl_refusal tcl_samples_open(struct tcl_samples *samples)
{
    uint32_t words[HEADER_WORDS];
    samples->region = port_open("samples.bin");
    if (port_read_at(samples->region, 0, words, HEADER_BYTES) != HEADER_BYTES || words[0] != SAMPLES_MAGIC)
        return TCL_NO_SAMPLES;
    if (words[1] != SAMPLES_VERSION)
        return TCL_SAMPLES_VERSION;
    if (words[SAMPLES_CRC] != tcl_crc32(0, words, 4 * SAMPLES_CRC))
        return TCL_SAMPLES_HEADER;
    if (memcmp(words + SAMPLES_SHAPE, samples->shape, sizeof samples->shape) != 0 ||
        words[SAMPLES_CLASSES] != samples->num_classes)
        return TCL_SAMPLES_SHAPE;
    samples->num_train = two_words(words + SAMPLES_NUM_TRAIN);
    samples->num_test = two_words(words + SAMPLES_NUM_TEST);
    samples->id = two_words(words + SAMPLES_ID);
    if (samples->num_train == 0 || samples->num_train > UINT32_MAX || samples->num_test > UINT32_MAX)
        return TCL_SAMPLES_EMPTY;
    uint64_t const end = HEADER_BYTES + (samples->num_train + samples->num_test) * sample_bytes(samples);
    uint32_t last;
    if (port_read_at(samples->region, end - sizeof last, &last, sizeof last) != sizeof last)
        return TCL_SAMPLES_TRUNCATED;
    return TCL_ACCEPTED;
}

enum tcl_refusal tcl_samples_read(struct tcl_samples const *samples, uint64_t index, float *image,
                                  uint32_t *label)
{
    PORT_CHECK(index < samples->num_train + samples->num_test);
    uint64_t const offset = HEADER_BYTES + index * sample_bytes(samples);
    size_t const num_bytes = (size_t)image_bytes(samples);
    uint32_t behind[2]; /* class, CRC */
    if (port_read_at(samples->region, offset, image, num_bytes) != num_bytes ||
        port_read_at(samples->region, offset + num_bytes, behind, sizeof behind) != sizeof behind)
        return TCL_SAMPLES_TRUNCATED;
    if (tcl_crc32(tcl_crc32(0, image, num_bytes), behind, 4) != behind[1])
        return TCL_SAMPLE_DAMAGED;
    if (behind[0] >= samples->num_classes)
        return TCL_SAMPLE_LABEL;
    *label = behind[0];
    return TCL_ACCEPTED;
}

/* --- order --- */

/* Spreads every bit of `x` over all (the final mix of MurmurHash3). */
static uint32_t mixed(uint32_t x)
{
    x = (x ^ x >> 16) * 0x85ebca6bu;
    x = (x ^ x >> 13) * 0xc2b2ae35u;
    return x ^ x >> 16;
}

/* Four rounds of a Feistel network permute 0 .. 4^half_bits - 1; what lands outside of 0 .. num - 1 goes
   round again, until it lands inside: on the average less than four times. */
uint64_t tcl_shuffled(uint64_t i, uint64_t num, uint64_t seed, uint64_t epoch)
{
    PORT_CHECK(i < num && num <= (uint64_t)1 << 32);
    int half_bits = 0;
    while ((uint64_t)1 << 2 * half_bits < num)
        half_bits++;
    uint32_t const mask = (uint32_t)(((uint64_t)1 << half_bits) - 1);
    uint32_t key = mixed((uint32_t)seed);
    key = mixed(key ^ (uint32_t)(seed >> 32));
    key = mixed(key ^ (uint32_t)epoch);
    key = mixed(key ^ (uint32_t)(epoch >> 32));
    do {
        uint32_t left = (uint32_t)(i >> half_bits), right = (uint32_t)i & mask;
        for (uint32_t round = 1; round <= 4; round++) {
            uint32_t const next = left ^ (mixed(right ^ mixed(key + round)) & mask);
            left = right;
            right = next;
        }
        i = (uint64_t)left << half_bits | right;
    } while (i >= num);
    return i;
}

/* --- slots --- */

void tcl_slots_open(struct tcl_slots *slots)
{
    slots->regions[0] = port_open("slot0.bin");
    slots->regions[1] = port_open("slot1.bin");
    slots->sequence = 0;
    slots->newest = 1;
}

/* Tells whether the slot's bytes have the CRC that is written behind them. */
static int is_whole(int region, uint32_t const *words)
{
    unsigned char part[256];
    uint32_t crc = tcl_crc32(0, words, HEADER_BYTES), written;
    uint64_t offset = HEADER_BYTES, end = HEADER_BYTES;
    for (int i = 0; i < TCL_NUM_BLOCKS; i++)
        end += words[SLOT_NUM_BYTES + i];
    while (offset < end) {
        uint64_t const left = end - offset;
        size_t const num_bytes = left < sizeof part ? (size_t)left : sizeof part;
        if (port_read_at(region, offset, part, num_bytes) != num_bytes)
            return 0;
        crc = tcl_crc32(crc, part, num_bytes);
        offset += num_bytes;
    }
    return port_read_at(region, offset, &written, sizeof written) == sizeof written && written == crc;
}

/* Reads a slot's header. A slot that was cut while it was written is TCL_NO_SLOT: of what it says nothing
   counts before its CRC was found right, the version too. Every version has lengths and CRC at these places.
 */
static enum tcl_refusal read_header(struct tcl_slots const *slots, int number, uint32_t *words)
{
    int const region = slots->regions[number];
    if (port_read_at(region, 0, words, HEADER_BYTES) != HEADER_BYTES || words[0] != SLOT_MAGIC)
        return TCL_NO_SLOT;
    if (!is_whole(region, words))
        return TCL_NO_SLOT;
    if (words[1] != SLOT_VERSION)
        return TCL_SLOT_VERSION;
    if (two_words(words + SLOT_RUN) != slots->run || two_words(words + SLOT_SAMPLES) != slots->samples)
        return TCL_SLOT_OF_ANOTHER_RUN;
    for (int i = 0; i < TCL_NUM_BLOCKS; i++)
        if (words[SLOT_NUM_BYTES + i] != slots->blocks[i].num_bytes)
            return TCL_SLOT_OF_ANOTHER_RUN;
    return TCL_ACCEPTED;
}

enum tcl_refusal tcl_slots_load(struct tcl_slots *slots, struct tcl_position *position)
{
    uint32_t words[HEADER_WORDS], newest[HEADER_WORDS];
    int found = 0;
    for (int number = 0; number < 2; number++) {
        enum tcl_refusal const refusal = read_header(slots, number, words);
        if (refusal != TCL_ACCEPTED && refusal != TCL_NO_SLOT)
            return refusal;
        uint64_t const ahead = two_words(words + SLOT_SEQUENCE) - slots->sequence; /* may run over */
        if (refusal == TCL_NO_SLOT || (found && (int64_t)ahead < 0))
            continue;
        found = 1;
        slots->newest = number;
        slots->sequence = two_words(words + SLOT_SEQUENCE);
        memcpy(newest, words, sizeof newest);
    }
    if (!found)
        return TCL_NO_SLOT;
    uint64_t offset = HEADER_BYTES;
    for (struct tcl_block const *b = slots->blocks; b < slots->blocks + TCL_NUM_BLOCKS; b++) {
        if (b->num_bytes > 0 &&
            port_read_at(slots->regions[slots->newest], offset, b->data, b->num_bytes) != b->num_bytes)
            return TCL_SLOT_OF_ANOTHER_RUN;
        offset += b->num_bytes;
    }
    position->epoch = two_words(newest + SLOT_EPOCH);
    position->step = two_words(newest + SLOT_STEP);
    return TCL_ACCEPTED;
}

void tcl_slots_save(struct tcl_slots *slots, struct tcl_position const *position)
{
    uint32_t words[HEADER_WORDS] = {SLOT_MAGIC, SLOT_VERSION};
    int const number = !slots->newest, region = slots->regions[number];
    set_two_words(words + SLOT_RUN, slots->run);
    set_two_words(words + SLOT_SAMPLES, slots->samples);
    set_two_words(words + SLOT_SEQUENCE, slots->sequence + 1);
    set_two_words(words + SLOT_EPOCH, position->epoch);
    set_two_words(words + SLOT_STEP, position->step);
    for (int i = 0; i < TCL_NUM_BLOCKS; i++)
        words[SLOT_NUM_BYTES + i] = slots->blocks[i].num_bytes;
    uint32_t crc = tcl_crc32(0, words, HEADER_BYTES);
    uint64_t offset = HEADER_BYTES;
    port_write_at(region, 0, words, HEADER_BYTES);
    for (struct tcl_block const *b = slots->blocks; b < slots->blocks + TCL_NUM_BLOCKS; b++) {
        if (b->num_bytes == 0)
            continue;
        crc = tcl_crc32(crc, b->data, b->num_bytes);
        port_write_at(region, offset, b->data, b->num_bytes);
        offset += b->num_bytes;
    }
    port_write_at(region, offset, &crc, sizeof crc);
    port_sync(region); /* before the other slot is written again */
    slots->newest = number;
    slots->sequence++;
}

/* --- log, features --- */

void tcl_log_write(int region, uint64_t index, void const *value, uint64_t cycles)
{
    uint32_t words[6] = {0}; /* number from 1 on (0: never written), value, 0, cycles */
    set_two_words(words, index + 1);
    memcpy(words + 2, value, 4);
    set_two_words(words + 4, cycles);
    port_write_at(region, index * sizeof words, words, sizeof words);
}

void tcl_features_write(int region, uint64_t sample, void const *data, uint32_t num_bytes)
{
    uint32_t words[2]; /* number from 1 on (0: never written) */
    uint64_t const offset = sample * (sizeof words + num_bytes);
    set_two_words(words, sample + 1);
    port_write_at(region, offset, words, sizeof words);
    port_write_at(region, offset + sizeof words, data, num_bytes);
}
