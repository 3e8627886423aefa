// Closes every descriptor but the standard ones, as daemons do, then works on.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(void) {
    for (int fd = 3; fd < 1024; fd++) close(fd);
    char *block = malloc(100000);
    if (block == NULL) return 1;
    for (int i = 0; i < 100000; i += 100) block[i] = 1;
    puts("closed");
    // The lowest free descriptor must be 3: nothing is kept open behind the program's back.
    int lowest = dup(1);
    free(block);
    return lowest == 3 ? 0 : 2;
}
