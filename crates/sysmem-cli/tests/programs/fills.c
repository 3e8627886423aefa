// Fills memory until there is no more or 200 MiB are full, and says how many.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    enum { MIB = 1 << 20 };
    int count = 0;
    for (char *block; count < 200 && (block = malloc(MIB)) != NULL; count++) memset(block, 1, MIB);
    printf("filled %d\n", count);
    return 0;
}
