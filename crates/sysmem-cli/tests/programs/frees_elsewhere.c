// Eight threads allocate blocks of many sizes and hand each to another thread, which looks at it
// and frees it.
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 8, BLOCKS = 40000, ROOM = 256 };

struct block {
    uint32_t size, seed;
    unsigned char bytes[];
};

static struct mailbox {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct block *waiting[ROOM];
    unsigned put, got;
} boxes[THREADS];

static uint64_t sums[THREADS];

static uint32_t next(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static void put(struct mailbox *box, struct block *block) {
    pthread_mutex_lock(&box->lock);
    while (box->put - box->got == ROOM) pthread_cond_wait(&box->changed, &box->lock);
    box->waiting[box->put++ % ROOM] = block;
    pthread_cond_broadcast(&box->changed);
    pthread_mutex_unlock(&box->lock);
}

// The next block, or none yet.
static struct block *get(struct mailbox *box, int wait) {
    struct block *block = NULL;
    pthread_mutex_lock(&box->lock);
    while (wait && box->put == box->got) pthread_cond_wait(&box->changed, &box->lock);
    if (box->put != box->got) block = box->waiting[box->got++ % ROOM];
    pthread_cond_broadcast(&box->changed);
    pthread_mutex_unlock(&box->lock);
    return block;
}

static uint64_t check_and_free(struct block *block) {
    uint32_t seed = block->seed;
    uint64_t sum = block->size;
    for (uint32_t i = 0; i < block->size; i++) {
        unsigned char expected = (unsigned char)next(&seed);
        if (block->bytes[i] != expected) {
            fprintf(stderr, "byte %u of %u changed\n", i, block->size);
            abort();
        }
        sum += expected;
    }
    free(block);
    return sum;
}

static void *produce(void *word) {
    size_t own = (size_t)word;
    uint32_t random = 12345 + (uint32_t)own;
    for (unsigned n = 0; n < BLOCKS; n++) {
        uint32_t size = next(&random) % (n % 100 == 0 ? 100000 : n % 10 == 0 ? 3000 : 200);
        struct block *block = malloc(sizeof *block + size);
        if (n % 3 == 0) block = realloc(block, sizeof *block + size + 1);
        if (block == NULL) abort();
        block->size = size;
        block->seed = random;
        uint32_t seed = random;
        for (uint32_t i = 0; i < size; i++) block->bytes[i] = (unsigned char)next(&seed);
        // Every second thread only receives: it frees what it never allocated.
        put(&boxes[(own + 1 + n % (THREADS - 1)) % THREADS | 1], block);
    }
    return NULL;
}

static void *consume(void *word) {
    size_t own = (size_t)word;
    struct block *block;
    while ((block = get(&boxes[own], 1))->size != UINT32_MAX) sums[own] += check_and_free(block);
    free(block);
    return NULL;
}

int main(void) {
    pthread_t threads[THREADS];
    for (size_t n = 0; n < THREADS; n++) {
        pthread_mutex_init(&boxes[n].lock, NULL);
        pthread_cond_init(&boxes[n].changed, NULL);
    }
    for (size_t n = 0; n < THREADS; n++) {
        pthread_create(&threads[n], NULL, n % 2 ? consume : produce, (void *)n);
    }
    for (size_t n = 0; n < THREADS; n += 2) pthread_join(threads[n], NULL);
    for (size_t n = 1; n < THREADS; n += 2) {
        struct block *last = malloc(sizeof *last);
        last->size = UINT32_MAX;
        put(&boxes[n], last);
    }
    uint64_t sum = 0;
    for (size_t n = 1; n < THREADS; n += 2) {
        pthread_join(threads[n], NULL);
        sum += sums[n];
    }
    printf("%llu\n", (unsigned long long)sum);
    return 0;
}
