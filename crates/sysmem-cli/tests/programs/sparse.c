/* Fills 128 MiB in blocks of 4,000 bytes, frees all but one in 600 of the upper half, says so, and
   goes on when its input ends. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCKS (128 * 1024 * 1024 / 4000)

int main(void) {
    static char *blocks[BLOCKS];
    for (int n = 0; n < BLOCKS; n++) {
        blocks[n] = malloc(4000);
        if (blocks[n] == NULL) return 1;
        memset(blocks[n], 1, 4000);
    }
    for (int n = BLOCKS / 2; n < BLOCKS; n++)
        if (n % 600 != 0) free(blocks[n]);
    puts("ready");
    fflush(stdout);
    return getchar() == EOF ? 0 : 2;
}
