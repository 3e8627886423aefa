// Holds 24 MiB, half of it in small blocks, frees all of it in one go and does nothing more. Its heap is
// too small for a thread that gives memory back.
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { SMALL = 12 << 10 };

int main(void) {
    static char *blocks[SMALL];
    for (int n = 0; n < SMALL; n++) {
        blocks[n] = malloc(1024);
        if (blocks[n] == NULL) return 1;
    }
    char *large = malloc(12 << 20);
    if (large == NULL) return 1;
    large[0] = 1;
    // Long ago, so that the first free is the last that is published for being due.
    usleep(300000);
    free(large);
    for (int n = 0; n < SMALL; n++) free(blocks[n]);
    puts("ready");
    fflush(stdout);
    return getchar() == EOF ? 0 : 1;
}
