/* What ExecuTorch's library for Python expects from torch, and a program without torch still needs: which instructions
 * the processor has, and a pool of threads, here of one, the caller's. `shim.py` adds the pool's loops.
 */

#include <cpuinfo.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>

/* Bits of AT_HWCAP and AT_HWCAP2 on arm64 Linux. */
enum {
    AES = 3,
    PMULL = 4,
    SHA1 = 5,
    SHA2 = 6,
    CRC32 = 7,
    ATOMICS = 8,
    FPHP = 9,
    ASIMDHP = 10,
    ASIMDRDM = 12,
    JSCVT = 13,
    FCMA = 14,
    ASIMDDP = 20,
    ASIMDFHM = 23,
    I8MM = 13,
    BF16 = 14,
};

struct cpuinfo_arm_isa cpuinfo_isa;

static struct cpuinfo_core core;
static struct cpuinfo_processor processor = {.core = &core};
static struct cpuinfo_uarch_info kind = {.processor_count = 1, .core_count = 1};

/* What the kernel says of the last processor that it lists, the fastest where there are several kinds. */
static struct {
    unsigned part;      /* Arm's number of the core */
    bool dot_products;  /* which an emulator's stand-in for a core may have, and the core itself not */
} listed;

static void read_proc(void) {
    char line[1024];
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        sscanf(line, "CPU part : %x", &listed.part);
        if (!strncmp(line, "Features", 8))
            listed.dot_products = strstr(line, " asimddp") != NULL;
    }
    if (file)
        fclose(file);
}

static enum cpuinfo_uarch uarch(unsigned part) {
    switch (part) {
    case 0xD03: return cpuinfo_uarch_cortex_a53;
    case 0xD04: return cpuinfo_uarch_cortex_a35;
    case 0xD05: return cpuinfo_uarch_cortex_a55;
    case 0xD07: return cpuinfo_uarch_cortex_a57;
    case 0xD08: return cpuinfo_uarch_cortex_a72;
    case 0xD09: return cpuinfo_uarch_cortex_a73;
    case 0xD0A: return cpuinfo_uarch_cortex_a75;
    case 0xD0B: return cpuinfo_uarch_cortex_a76;
    case 0xD0C: return cpuinfo_uarch_neoverse_n1;
    case 0xD0D: return cpuinfo_uarch_cortex_a77;
    case 0xD40: return cpuinfo_uarch_neoverse_v1;
    case 0xD41:
    case 0xD42: return cpuinfo_uarch_cortex_a78;
    case 0xD44: return cpuinfo_uarch_cortex_x1;
    case 0xD46: return cpuinfo_uarch_cortex_a510;
    case 0xD47: return cpuinfo_uarch_cortex_a710;
    case 0xD48: return cpuinfo_uarch_cortex_x2;
    case 0xD49: return cpuinfo_uarch_neoverse_n2;
    case 0xD4D: return cpuinfo_uarch_cortex_a715;
    case 0xD4E: return cpuinfo_uarch_cortex_x3;
    case 0xD81: return cpuinfo_uarch_cortex_a720;
    case 0xD82: return cpuinfo_uarch_cortex_x4;
    default: return cpuinfo_uarch_unknown;
    }
}

/* SVE and SME are left out: their kernels are not what is counted, nor what a Raspberry Pi or a Jetson Orin runs. */
bool cpuinfo_initialize(void) {
    unsigned long has = getauxval(AT_HWCAP), has2 = getauxval(AT_HWCAP2);
    read_proc();
    cpuinfo_isa.atomics = has >> ATOMICS & 1;
    cpuinfo_isa.rdm = has >> ASIMDRDM & 1;
    cpuinfo_isa.fp16arith = (has >> FPHP & 1) && (has >> ASIMDHP & 1);
    cpuinfo_isa.dot = (has >> ASIMDDP & 1) && listed.dot_products;
    cpuinfo_isa.jscvt = has >> JSCVT & 1;
    cpuinfo_isa.fcma = has >> FCMA & 1;
    cpuinfo_isa.fhm = has >> ASIMDFHM & 1;
    cpuinfo_isa.aes = has >> AES & 1;
    cpuinfo_isa.pmull = has >> PMULL & 1;
    cpuinfo_isa.sha1 = has >> SHA1 & 1;
    cpuinfo_isa.sha2 = has >> SHA2 & 1;
    cpuinfo_isa.crc32 = has >> CRC32 & 1;
    cpuinfo_isa.i8mm = has2 >> I8MM & 1;
    cpuinfo_isa.bf16 = has2 >> BF16 & 1;
    core.uarch = kind.uarch = uarch(listed.part);
    return true;
}

uint32_t cpuinfo_get_processors_count(void) { return 1; }
uint32_t cpuinfo_get_uarchs_count(void) { return 1; }
const struct cpuinfo_processor *cpuinfo_get_processor(uint32_t index) { return index ? NULL : &processor; }
const struct cpuinfo_uarch_info *cpuinfo_get_uarch(uint32_t index) { return index ? NULL : &kind; }

struct pthreadpool {
    size_t threads;
};

struct pthreadpool *pthreadpool_create(size_t threads) {
    static struct pthreadpool pool = {1};
    (void)threads;
    return &pool;
}

struct pthreadpool *pthreadpool_create_v2(void *executor, void *context, size_t threads) {
    (void)executor, (void)context;
    return pthreadpool_create(threads);
}

void pthreadpool_destroy(struct pthreadpool *pool) { (void)pool; }
size_t pthreadpool_get_threads_count(struct pthreadpool *pool) { return pool ? pool->threads : 1; }
void pthreadpool_release_executor_threads(struct pthreadpool *pool) { (void)pool; }

bool pthreadpool_update_executor(struct pthreadpool *pool, void *executor, void *context) {
    (void)pool, (void)executor, (void)context;
    return false;
}

/* libstdc++'s own, since GCC 13; what it does, the runner does itself. */
void _ZSt21ios_base_library_initv(void) {}

__attribute__((noreturn)) void refuse(const char *name) {
    fprintf(stderr, "error: ExecuTorch called %s, which is torch's or Python's and not here\n", name);
    exit(1);
}
