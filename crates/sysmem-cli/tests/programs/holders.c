/* Functions that hold what their names say, in blocks of 500 bytes, built without frame pointers:
   `keeps` 48 MiB to the end, `drops` 96 MiB for a while, `churns` 64 MiB one block at a time, and in
   a thread `shares` 24 MiB that another thread frees. With a number of MiB, it only churns those. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1024 * 1024)
#define BLOCK 500
#define BLOCKS(mebibytes) ((mebibytes) * MIB / BLOCK)

static void *volatile escaped;

__attribute__((noinline)) static void *block(void) {
    char *made = malloc(BLOCK);
    if (made == NULL) abort();
    memset(made, 1, BLOCK);
    escaped = made;
    return made;
}

__attribute__((noinline)) static void keeps(void) {
    static void *kept[BLOCKS(48)];
    for (int n = 0; n < BLOCKS(48); n++) kept[n] = block();
    escaped = kept;
}

__attribute__((noinline)) static void drops(void) {
    void **dropped = malloc(BLOCKS(96) * sizeof *dropped);
    for (int n = 0; n < BLOCKS(96); n++) dropped[n] = block();
    for (int n = 0; n < BLOCKS(96); n++) free(dropped[n]);
    free(dropped);
}

__attribute__((noinline)) static void churns(long mebibytes) {
    for (long n = 0; n < BLOCKS(mebibytes); n++) free(block());
}

static void *shared[BLOCKS(24)];

__attribute__((noinline)) static void *shares(void *nothing) {
    for (int n = 0; n < BLOCKS(24); n++) shared[n] = block();
    return nothing;
}

int main(int count, char **arguments) {
    pthread_t thread;
    if (count > 1) {
        churns(atol(arguments[1]));
        return 0;
    }
    if (pthread_create(&thread, NULL, shares, NULL) != 0) return 1;
    pthread_join(thread, NULL);
    for (int n = 0; n < BLOCKS(24); n++) free(shared[n]);
    keeps();
    drops();
    churns(64);
    return 0;
}
