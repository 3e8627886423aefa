/* Has 60,000 mappings more than other programs: every other page of a range may not be written to.
   Says so, and goes on when its input ends. */
#include <stdio.h>
#include <sys/mman.h>

#define PAGES 60000

int main(void) {
    char *range = mmap(NULL, PAGES * 4096UL, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (range == MAP_FAILED) return 1;
    for (int n = 0; n < PAGES; n++) {
        range[n * 4096UL] = 1;
        if (n % 2 != 0 && mprotect(range + n * 4096UL, 4096, PROT_READ) != 0) return 2;
    }
    puts("ready");
    fflush(stdout);
    return getchar() == EOF ? 0 : 3;
}
