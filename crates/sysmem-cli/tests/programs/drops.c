// Fills 64 MiB with small blocks, frees all but an eighth, says so and waits to be killed.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { COUNT = 64 << 10, SIZE = 1000 };

int main(void) {
    static char *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) {
        blocks[i] = malloc(SIZE);
        if (blocks[i] == NULL)
            return 1;
        memset(blocks[i], 1, SIZE);
    }
    for (int i = COUNT / 8; i < COUNT; i++)
        free(blocks[i]);
    puts("ready");
    fflush(stdout);
    // The allocator tells its figures when it is called.
    for (;;) {
        free(malloc(1 << 20));
        usleep(50000);
    }
}
