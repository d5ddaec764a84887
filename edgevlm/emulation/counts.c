/* A plugin of QEMU's that counts what an emulated Arm program executes, exactly.
 *
 * An instruction is decoded once, when QEMU translates the block that it stands in; each execution of the block then
 * adds what the block holds. The program says where it is by a mark: getpriority(PRIO_PROCESS, MARK | label), which a
 * real kernel answers with "no such process". At each mark, one line of JSON gives all that was counted so far.
 *
 * Counts are exact while one thread runs at a time: threads add to the same numbers.
 *
 * Encodings are named as in the Arm Architecture Reference Manual for A-profile, chapter C4. Not counted as
 * multiply-adds are those of scalar registers, products without an addition, but for the widening ones of integers
 * (SMULL, UMULL), with which kernels begin a sum, and SVE and SME. A store-exclusive or compare-and-swap counts
 * whether it succeeds or not. DC ZVA, which clears memory, is no store.
 */

#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* The part of QEMU's plugin API, version 1 (QEMU 4.2 to 8.2), that is used here; Debian packages no header. */

#define EXPORTED __attribute__((visibility("default")))
#define API_VERSION 1

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

typedef struct {
    const char *target_name;
    struct {
        int min;
        int cur;
    } version;
    bool system_emulation;
    struct {
        int smp_vcpus;
        int max_vcpus;
    } system;
} qemu_info_t;

typedef void (*translated_callback)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*syscall_callback)(qemu_plugin_id_t, unsigned int vcpu, int64_t number, uint64_t, uint64_t, uint64_t,
                                 uint64_t, uint64_t, uint64_t, uint64_t, uint64_t);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, translated_callback);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t, syscall_callback);
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

EXPORTED int qemu_plugin_version = API_VERSION;

/* What is counted; the names are those of the fields of edgevlm.bench.results.Counts. */

enum { INSTRUCTIONS, FLOAT_MULTIPLY_ADDS, INTEGER_MULTIPLY_ADDS, DOT_PRODUCTS, MATRIX_PRODUCTS, LOADED, STORED, KINDS };

static const char *const names[KINDS] = {
    "instructions",    "float_multiply_adds", "integer_multiply_adds", "dot_products",
    "matrix_products", "bytes_loaded",        "bytes_stored",
};

static unsigned bits(uint32_t word, int high, int low) { return word >> low & ((1u << (high - low + 1)) - 1); }

static unsigned bit(uint32_t word, int index) { return word >> index & 1; }

/* Lanes of so many bits in a vector instruction's registers, which are Q's 128 bits wide or half of that. */
static unsigned lanes(uint32_t word, unsigned width) { return (bit(word, 30) ? 128 : 64) / width; }

/* Widening instructions read 64 bits of each operand, the upper half where Q says so. */
static unsigned widening_lanes(unsigned size) { return 8 >> size; }

static void add_dot_product(uint32_t word, uint64_t *counts) {
    counts[DOT_PRODUCTS]++;
    counts[INTEGER_MULTIPLY_ADDS] += 4 * lanes(word, 32);
}

static void add_matrix_product(uint64_t *counts) { /* 2 x 8 by 8 x 2 */
    counts[MATRIX_PRODUCTS]++;
    counts[INTEGER_MULTIPLY_ADDS] += 32;
}

/* "Advanced SIMD three same" */
static void decode_three_same(uint32_t word, uint64_t *counts) {
    unsigned upper = bit(word, 29), size = bits(word, 23, 22), opcode = bits(word, 15, 11);
    if (opcode == 0x19 && !upper) /* FMLA, FMLS */
        counts[FLOAT_MULTIPLY_ADDS] += lanes(word, size & 1 ? 64 : 32);
    else if ((opcode == 0x1D && !upper && !(size & 1)) || (opcode == 0x19 && upper && !(size & 1)))
        counts[FLOAT_MULTIPLY_ADDS] += lanes(word, 32); /* FMLAL, FMLSL; FMLAL2, FMLSL2: sums are float32 */
    else if (opcode == 0x12) /* MLA, MLS */
        counts[INTEGER_MULTIPLY_ADDS] += lanes(word, 8u << size);
}

/* "Advanced SIMD three same (FP16)" */
static void decode_three_same_half(uint32_t word, uint64_t *counts) {
    if (bits(word, 13, 11) == 1 && !bit(word, 29)) /* FMLA, FMLS */
        counts[FLOAT_MULTIPLY_ADDS] += lanes(word, 16);
}

/* "Advanced SIMD three-register extension" */
static void decode_extension(uint32_t word, uint64_t *counts) {
    unsigned upper = bit(word, 29), size = bits(word, 23, 22), opcode = bits(word, 14, 11);
    if (size == 2 && (opcode == 2 || (opcode == 3 && !upper))) /* SDOT, UDOT; USDOT */
        add_dot_product(word, counts);
    else if (size == 2 && (opcode == 4 || (opcode == 5 && !upper))) /* SMMLA, UMMLA; USMMLA */
        add_matrix_product(counts);
    else if (upper && opcode <= 1) /* SQRDMLAH, SQRDMLSH */
        counts[INTEGER_MULTIPLY_ADDS] += lanes(word, 8u << size);
    else if (upper && opcode >> 2 == 2) /* FCMLA */
        counts[FLOAT_MULTIPLY_ADDS] += lanes(word, 8u << size);
    else if (upper && opcode == 15) /* BFDOT; BFMLALB, BFMLALT */
        counts[FLOAT_MULTIPLY_ADDS] += size == 1 ? 2 * lanes(word, 32) : 4;
    else if (upper && opcode == 13 && size == 1) /* BFMMLA: 2 x 4 by 4 x 2 */
        counts[FLOAT_MULTIPLY_ADDS] += 16;
}

/* "Advanced SIMD three different" */
static void decode_three_different(uint32_t word, uint64_t *counts) {
    unsigned upper = bit(word, 29), size = bits(word, 23, 22), opcode = bits(word, 15, 12);
    bool either = opcode == 8 || opcode == 10 || opcode == 12;        /* SMLAL, SMLSL, SMULL and the unsigned */
    bool saturating = !upper && (opcode == 9 || opcode == 11);        /* SQDMLAL, SQDMLSL */
    if (either || saturating)
        counts[INTEGER_MULTIPLY_ADDS] += widening_lanes(size);
}

static unsigned float_width(unsigned size) { return size == 0 ? 16 : size == 2 ? 32 : 64; }

/* "Advanced SIMD vector x indexed element" */
static void decode_by_element(uint32_t word, uint64_t *counts) {
    unsigned size = bits(word, 23, 22);
    switch (bit(word, 29) << 4 | bits(word, 15, 12)) {
    case 0x01: /* FMLA */
    case 0x05: /* FMLS */
        counts[FLOAT_MULTIPLY_ADDS] += lanes(word, float_width(size));
        break;
    case 0x00: /* FMLAL */
    case 0x04: /* FMLSL */
    case 0x18: /* FMLAL2 */
    case 0x1C: /* FMLSL2 */
        counts[FLOAT_MULTIPLY_ADDS] += lanes(word, 32);
        break;
    case 0x11: /* FCMLA, by its four rotations */
    case 0x13:
    case 0x15:
    case 0x17:
        counts[FLOAT_MULTIPLY_ADDS] += lanes(word, 8u << size);
        break;
    case 0x10: /* MLA */
    case 0x14: /* MLS */
    case 0x1D: /* SQRDMLAH */
        counts[INTEGER_MULTIPLY_ADDS] += lanes(word, 8u << size);
        break;
    case 0x02: /* SMLAL */
    case 0x12: /* UMLAL */
    case 0x06: /* SMLSL */
    case 0x16: /* UMLSL */
    case 0x0A: /* SMULL */
    case 0x1A: /* UMULL */
    case 0x03: /* SQDMLAL */
    case 0x07: /* SQDMLSL */
        counts[INTEGER_MULTIPLY_ADDS] += widening_lanes(size);
        break;
    case 0x0E: /* SDOT */
    case 0x1E: /* UDOT */
        add_dot_product(word, counts);
        break;
    case 0x0F: /* SUDOT, BFDOT, USDOT, BFMLALB and BFMLALT, by size */
        if (size == 0 || size == 2)
            add_dot_product(word, counts);
        else
            counts[FLOAT_MULTIPLY_ADDS] += size == 1 ? 2 * lanes(word, 32) : 4;
        break;
    case 0x1F: /* SQRDMLSH */
        counts[INTEGER_MULTIPLY_ADDS] += lanes(word, 8u << size);
        break;
    }
}

/* "Data processing: scalar floating-point and Advanced SIMD": the vector part of it that can multiply and add */
static void decode_vector(uint32_t word, uint64_t *counts) {
    if (bit(word, 31))
        return;
    if (bits(word, 28, 24) == 0x0F && !bit(word, 10))
        decode_by_element(word, counts);
    if (bits(word, 28, 24) != 0x0E)
        return;
    if (bit(word, 21) && bit(word, 10))
        decode_three_same(word, counts);
    else if (bit(word, 21) && bits(word, 11, 10) == 0)
        decode_three_different(word, counts);
    else if (!bit(word, 21) && bit(word, 15) && bit(word, 10))
        decode_extension(word, counts);
    else if (bits(word, 22, 21) == 2 && bits(word, 15, 14) == 0 && bit(word, 10))
        decode_three_same_half(word, counts);
}

static void add_access(uint64_t *counts, bool load, unsigned bytes) { counts[load ? LOADED : STORED] += bytes; }

static void add_both(uint64_t *counts, unsigned bytes) {
    counts[LOADED] += bytes;
    counts[STORED] += bytes;
}

/* "Advanced SIMD load/store multiple structures" and "single structure": LD1 to LD4, LD1R to LD4R, ST1 to ST4 */
static void decode_structures(uint32_t word, uint64_t *counts) {
    static const unsigned char registers[16] = {[0] = 4, [2] = 4, [4] = 3, [6] = 3, [7] = 1, [8] = 2, [10] = 2};
    bool load = bit(word, 22);
    if (!bit(word, 24)) {
        add_access(counts, load, registers[bits(word, 15, 12)] * (bit(word, 30) ? 16 : 8));
        return;
    }
    unsigned opcode = bits(word, 15, 13), scale = opcode >> 1, size = bits(word, 11, 10);
    unsigned elements = ((opcode & 1) << 1 | bit(word, 21)) + 1;
    unsigned log2_bytes = scale == 3 ? size : scale == 2 ? 2 + (size & 1) : scale; /* 3: one element for all lanes */
    add_access(counts, load, elements << log2_bytes);
}

/* "Load/store exclusive", "ordered", "exclusive pair" and "compare and swap" */
static void decode_exclusive(uint32_t word, uint64_t *counts) {
    unsigned size = bits(word, 31, 30);
    bool ordered = bit(word, 23), other = bit(word, 21);
    if (!other)
        add_access(counts, bit(word, 22), 1u << size);
    else if (ordered) /* CAS */
        add_both(counts, 1u << size);
    else if (size >= 2) /* STXP, LDXP */
        add_access(counts, bit(word, 22), size == 2 ? 8 : 16);
    else /* CASP */
        add_both(counts, size == 0 ? 8 : 16);
}

/* "Load register (literal)" */
static void decode_literal(uint32_t word, uint64_t *counts) {
    unsigned opcode = bits(word, 31, 30);
    if (bit(word, 26))
        counts[LOADED] += 4u << opcode;
    else if (opcode != 3) /* 3 is PRFM */
        counts[LOADED] += opcode == 1 ? 8 : 4;
}

/* "Load/store register pair", no-allocate too */
static void decode_pair(uint32_t word, uint64_t *counts) {
    unsigned opcode = bits(word, 31, 30);
    bool load = bit(word, 22);
    if (bit(word, 26))
        add_access(counts, load, 8u << opcode);
    else if (opcode == 1) /* LDPSW; STGP */
        add_access(counts, load, load ? 8 : 16);
    else
        add_access(counts, load, opcode == 2 ? 16 : 8);
}

/* "Atomic memory operations" */
static void decode_atomic(uint32_t word, uint64_t *counts) {
    unsigned bytes = 1u << bits(word, 31, 30);
    if (!bit(word, 15) || bits(word, 14, 12) == 0) /* LDADD and its like; SWP */
        add_both(counts, bytes);
    else if (bits(word, 14, 12) == 4) /* LDAPR */
        counts[LOADED] += bytes;
}

/* "Load/store register", in its addressing modes, and the unscaled load-acquire and store-release */
static void decode_register(uint32_t word, uint64_t *counts) {
    unsigned size = bits(word, 31, 30), opcode = bits(word, 23, 22);
    if (bit(word, 26))
        add_access(counts, opcode & 1, opcode & 2 ? 16 : 1u << size);
    else if (size != 3 || opcode != 2) /* that is PRFM */
        add_access(counts, opcode != 0, 1u << size);
}

/* "Loads and stores" */
static void decode_memory(uint32_t word, uint64_t *counts) {
    bool vector = bit(word, 26);
    switch (bits(word, 29, 28)) {
    case 0:
        if (vector)
            decode_structures(word, counts);
        else if (!bit(word, 24))
            decode_exclusive(word, counts);
        break;
    case 1:
        if (!bit(word, 24))
            decode_literal(word, counts);
        else if (!vector && !bit(word, 21) && bits(word, 11, 10) == 0)
            decode_register(word, counts); /* LDAPUR, STLUR; the others copy, set or tag memory */
        break;
    case 2:
        decode_pair(word, counts);
        break;
    case 3:
        if (bit(word, 24) || !bit(word, 21) || bits(word, 11, 10) == 2)
            decode_register(word, counts);
        else if (!vector && bit(word, 10))
            counts[LOADED] += 8; /* LDRAA, LDRAB */
        else if (!vector)
            decode_atomic(word, counts);
        break;
    }
}

static void decode(uint32_t word, uint64_t *counts) {
    counts[INSTRUCTIONS]++;
    if (bits(word, 27, 25) == 7)
        decode_vector(word, counts);
    else if (bit(word, 27) && !bit(word, 25))
        decode_memory(word, counts);
}

enum { GETPRIORITY = 141, MARK = 0x51AE0000 };

static uint64_t totals[KINDS];
static FILE *out;

static void count_block(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    uint64_t counts[KINDS] = {0};
    size_t length = qemu_plugin_tb_n_insns(block);
    (void)id;
    for (size_t index = 0; index < length; index++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, index)), sizeof word);
        decode(word, counts);
    }
    for (int kind = 0; kind < KINDS; kind++)
        if (counts[kind])
            qemu_plugin_register_vcpu_tb_exec_inline(block, QEMU_PLUGIN_INLINE_ADD_U64, &totals[kind], counts[kind]);
}

static void take_mark(qemu_plugin_id_t id, unsigned int vcpu, int64_t number, uint64_t which, uint64_t who, uint64_t a3,
                      uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)vcpu, (void)which, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != GETPRIORITY || (who & 0xFFFF0000) != MARK)
        return;
    fprintf(out, "{\"mark\": %u", (unsigned)(who & 0xFFFF));
    for (int kind = 0; kind < KINDS; kind++)
        fprintf(out, ", \"%s\": %" PRIu64, names[kind], totals[kind]);
    fputs("}\n", out);
    fflush(out);
}

/* Takes one argument, `out=PATH`. */
EXPORTED int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int count, char **arguments) {
    if (strcmp(info->target_name, "aarch64") || info->system_emulation) {
        fputs("expected qemu-aarch64, which emulates one program\n", stderr);
        return -1;
    }
    if (count != 1 || strncmp(arguments[0], "out=", 4)) {
        fputs("expected one argument, out=PATH\n", stderr);
        return -1;
    }
    out = fopen(arguments[0] + 4, "w");
    if (!out) {
        perror(arguments[0] + 4);
        return -1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, count_block);
    qemu_plugin_register_vcpu_syscall_cb(id, take_mark);
    return 0;
}
