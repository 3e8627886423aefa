/* Holds 1,200 blocks of a MiB, of which it touches one page each: more huge pages of heap than a page
   draws as large squares. */
#include <stdlib.h>
#include <unistd.h>

int main(void) {
    static char *blocks[1200];
    for (int n = 0; n < 1200; n++) {
        blocks[n] = malloc(1 << 20);
        if (blocks[n] == NULL) return 1;
        blocks[n][0] = 1;
    }
    for (int n = 0; n < 1200; n += 3) free(blocks[n]);
    usleep(100000);
    return 0;
}
