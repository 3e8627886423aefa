// Makes 10,000 allocations of 1,000 bytes and frees half of them.
#include <stdlib.h>
#include <string.h>

static char *blocks[10000];

int main(void) {
    for (int n = 0; n < 10000; n++) {
        blocks[n] = malloc(1000);
        if (blocks[n] == NULL) return 1;
        memset(blocks[n], 1, 1000);
    }
    for (int n = 0; n < 10000; n += 2) free(blocks[n]);
    return 0;
}
