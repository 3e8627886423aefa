// Threads fill 200 MiB and go to sleep; says how much of it stays in memory after most was freed.
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, THREADS = 2, SIZE = 1000, COUNT = 100 * MIB / SIZE, KEPT = 16 };
static char *blocks[THREADS][COUNT];
static const char *mode;
static pthread_barrier_t barrier;

static long resident(void) {
    char text[128];
    int file = open("/proc/self/statm", O_RDONLY);
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    text[length < 0 ? 0 : length] = 0;
    return atol(strchr(text, ' ')) * 4096 / MIB;
}

static void milliseconds(long count) {
    struct timespec time = {count / 1000, count % 1000 * 1000000};
    while (nanosleep(&time, &time) != 0) {}
}

// Whether a block holds what was written to it.
static int is_whole(const char *block, size_t n) {
    for (size_t at = 0; at < SIZE; at++) {
        if (block[at] != (char)n) return 0;
    }
    return 1;
}

static void fill(char **own) {
    for (size_t n = 0; n < COUNT; n++) {
        if (own[n] == NULL) {
            own[n] = malloc(SIZE);
            memset(own[n], (char)n, SIZE);
        }
    }
}

// Frees all but every KEPT-th block, which no span is without.
static void free_most(char **own) {
    for (size_t n = 0; n < COUNT; n++) {
        if (n % KEPT != 0) {
            free(own[n]);
            own[n] = NULL;
        }
    }
}

static void check(char **own) {
    for (size_t n = 0; n < COUNT; n++) {
        if (own[n] != NULL && !is_whole(own[n], n)) {
            printf("block %zu is broken\n", n);
            exit(1);
        }
    }
}

static void *run(void *argument) {
    char **own = argument;
    fill(own);
    if (strcmp(mode, "between") == 0) free_most(own);
    if (strcmp(mode, "ended") == 0) return NULL;
    pthread_barrier_wait(&barrier);
    // Asleep, as far as this program can be: until main has seen enough.
    pthread_barrier_wait(&barrier);
    if (strcmp(mode, "elsewhere") == 0) return NULL;
    check(own);
    fill(own);
    check(own);
    // The heap is used and left again and again, while it may be taken from its thread at any time.
    for (int round = 0; round < 30; round++) {
        free_most(own);
        milliseconds(round % 3 * 100);
        fill(own);
        check(own);
    }
    return NULL;
}

// Waits until no more than that many MiB are resident, for some seconds at most; says how many are.
static void wait_for(long most) {
    for (int turn = 0; turn < 500 && resident() > most; turn++) milliseconds(10);
    printf("resident %ld\n", resident());
    fflush(stdout);
}

int main(int count, char **words) {
    mode = count > 1 ? words[1] : "";
    pthread_t threads[THREADS];
    pthread_barrier_init(&barrier, NULL, THREADS + 1);
    for (int n = 0; n < THREADS; n++) pthread_create(&threads[n], NULL, run, blocks[n]);
    if (strcmp(mode, "ended") == 0) {
        for (int n = 0; n < THREADS; n++) {
            pthread_join(threads[n], NULL);
            free_most(blocks[n]);
        }
        wait_for(80);
        for (int n = 0; n < THREADS; n++) check(blocks[n]);
        return 0;
    }
    pthread_barrier_wait(&barrier);
    if (strcmp(mode, "elsewhere") == 0) {
        // The blocks of threads that sleep, freed by another.
        for (int n = 0; n < THREADS; n++) {
            for (size_t block = 0; block < COUNT; block++) free(blocks[n][block]);
        }
        wait_for(20);
    } else {
        wait_for(80);
    }
    pthread_barrier_wait(&barrier);
    if (strcmp(mode, "between") == 0) {
        // A child sees heaps that nobody is at work on, and works on one of its own.
        for (int round = 0; round < 100; round++) {
            if (fork() == 0) {
                void *some[1000];
                for (int n = 0; n < 1000; n++) some[n] = memset(malloc(SIZE), n, SIZE);
                for (int n = 0; n < 1000; n++) {
                    if (!is_whole(some[n], (size_t)n)) _exit(1);
                    free(some[n]);
                }
                _exit(0);
            }
            int status;
            wait(&status);
            if (status != 0) return 1;
            milliseconds(20);
        }
    }
    for (int n = 0; n < THREADS; n++) pthread_join(threads[n], NULL);
    return 0;
}
