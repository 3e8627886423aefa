// Leaves a daemon behind that outlives it, as services do, and exits. The daemon ends when the
// file that was named is gone.
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words) {
    if (count != 2 || daemon(1, 0) != 0) return 1;
    while (access(words[1], F_OK) == 0) {
        free(malloc(1000));
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return 0;
}
