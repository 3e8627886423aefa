// Forks while other threads allocate. Each child, which has one thread, allocates and frees what
// its parent had allocated, starts a thread of its own, and exits.
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, FORKS = 60, HELD = 64 };

static atomic_int stop;

static void *churn(void *word) {
    unsigned random = (unsigned)(size_t)word + 1;
    char *held[HELD] = {0};
    while (!atomic_load(&stop)) {
        random = random * 1103515245 + 12345;
        unsigned place = random >> 16 & (HELD - 1);
        free(held[place]);
        size_t size = random >> 8 & (random & 64 ? 0xfffff : 0x3ff);
        held[place] = malloc(size + 1);
        if (held[place] == NULL) abort();
        held[place][0] = held[place][size] = (char)random;
    }
    for (unsigned place = 0; place < HELD; place++) free(held[place]);
    return NULL;
}

static void *once(void *block) {
    free(block);
    return calloc(1, 5000);
}

static int child(char *inherited) {
    free(inherited);
    for (unsigned n = 0; n < 2000; n++) {
        char *block = malloc(n * 37 % 40000 + 1);
        if (block == NULL) return 1;
        block[0] = 1;
        free(block);
    }
    pthread_t thread;
    void *result;
    if (pthread_create(&thread, NULL, once, malloc(100)) != 0) return 2;
    pthread_join(thread, &result);
    free(result);
    return 0;
}

int main(void) {
    pthread_t threads[THREADS];
    for (size_t n = 0; n < THREADS; n++) pthread_create(&threads[n], NULL, churn, (void *)n);
    int good = 0;
    for (int n = 0; n < FORKS; n++) {
        char *block = malloc(777);
        pid_t pid = fork();
        if (pid < 0) abort();
        // Both ways out: with the exit handlers and without.
        if (pid == 0 && n % 2 == 0) exit(child(block));
        if (pid == 0) _exit(child(block));
        free(block);
        int status;
        waitpid(pid, &status, 0);
        good += WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    atomic_store(&stop, 1);
    for (size_t n = 0; n < THREADS; n++) pthread_join(threads[n], NULL);
    printf("%d of %d children were well\n", good, FORKS);
    return good == FORKS ? 0 : 1;
}
