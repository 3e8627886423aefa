/* `first` allocates 32 MiB; a child of a fork frees its copy of them; then `second` allocates as
   much. The parent frees nothing. */
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK 4000
#define BLOCKS (32 * 1024 * 1024 / BLOCK)

static void *held[2 * BLOCKS];

__attribute__((noinline)) static void first(void) {
    for (int n = 0; n < BLOCKS; n++) memset(held[n] = malloc(BLOCK), 1, BLOCK);
}

__attribute__((noinline)) static void second(void) {
    for (int n = BLOCKS; n < 2 * BLOCKS; n++) memset(held[n] = malloc(BLOCK), 1, BLOCK);
}

int main(void) {
    first();
    pid_t child = fork();
    if (child == 0) {
        for (int n = 0; n < BLOCKS; n++) free(held[n]);
        _exit(0);
    }
    int status;
    if (waitpid(child, &status, 0) != child || status != 0) return 1;
    second();
    return 0;
}
