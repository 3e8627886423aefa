// Allocates where allocators are caught out: in the destructors of a thread's keys, in all rounds
// of them, in exit handlers and in destructors of the program.
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_key_t keys[3];
static atomic_int late;
static char *kept;

static char *some(size_t size) {
    char *block = malloc(size);
    if (block == NULL) abort();
    memset(block, 7, size);
    atomic_fetch_add(&late, 1);
    return block;
}

struct turn {
    int key, rounds;
    char *block;
};

static void destroy(void *word) {
    struct turn *turn = word;
    free(turn->block);
    free(some(300));
    if (turn->rounds-- > 0) {
        turn->block = some((size_t)turn->rounds * 1000 + 1);
        pthread_setspecific(keys[turn->key], turn);
    } else {
        free(turn);
    }
}

static void *work(void *word) {
    (void)word;
    for (int key = 0; key < 3; key++) {
        struct turn *turn = malloc(sizeof *turn);
        *turn = (struct turn){.key = key, .rounds = 2, .block = some(100)};
        pthread_setspecific(keys[key], turn);
    }
    return some(50);
}

static void at_exit(void) {
    free(kept);
    kept = some(100000);
    printf("exit handler: %d\n", (int)late);
}

__attribute__((destructor)) static void at_the_very_end(void) {
    free(kept);
    kept = realloc(some(10), 1000);
    printf("destructor: %d\n", (int)late);
    fflush(stdout);
}

int main(void) {
    kept = some(1);
    atexit(at_exit);
    for (int key = 0; key < 3; key++) pthread_key_create(&keys[key], destroy);
    for (int n = 0; n < 100; n++) {
        pthread_t thread;
        void *left;
        if (pthread_create(&thread, NULL, work, NULL) != 0) abort();
        pthread_join(thread, &left);
        free(left);
    }
    printf("threads: %d\n", (int)late);
    return 0;
}
