/* Holds memory of each kind and says so: 32 MiB touched, 16 MiB never touched, 64 MiB of address
   space without access, 8 MiB freed lazily. Goes on when its input ends. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define MIB (1024ul * 1024)

static char *mapped(unsigned long size, int protection) {
    return mmap(NULL, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
}

int main(void) {
    char *touched = mapped(32 * MIB, PROT_READ | PROT_WRITE);
    char *untouched = mapped(16 * MIB, PROT_READ | PROT_WRITE);
    char *reserved = mapped(64 * MIB, PROT_NONE);
    char *freed = mapped(8 * MIB, PROT_READ | PROT_WRITE);
    if (touched == MAP_FAILED || untouched == MAP_FAILED || reserved == MAP_FAILED ||
        freed == MAP_FAILED)
        return 1;
    memset(touched, 1, 32 * MIB);
    memset(freed, 1, 8 * MIB);
    if (madvise(freed, 8 * MIB, 8 /* MADV_FREE */) != 0)
        return 1;
    puts("ready");
    fflush(stdout);
    return getchar() == EOF ? 0 : 2;
}
