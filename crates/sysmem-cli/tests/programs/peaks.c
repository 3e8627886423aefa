// Touches as many MiB as it is told, gives them back, and ends in the way it is told.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words) {
    if (count != 3) return 1;
    size_t size = (size_t)atoi(words[1]) << 20;
    // Not from malloc: the kernel's figures alone are looked at here.
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return 1;
    memset(memory, 1, size);
    munmap(memory, size);
    if (strcmp(words[2], "_exit") == 0) _exit(3);
    if (strcmp(words[2], "kill") == 0) {
        // Long enough to be sampled.
        nanosleep(&(struct timespec){.tv_nsec = 400000000}, NULL);
        kill(getpid(), SIGKILL);
    }
    return 3;
}
