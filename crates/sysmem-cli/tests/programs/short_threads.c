// Ten thousand short threads; each frees what another allocated and leaves something behind.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { THREADS = 10000, AT_ONCE = 20 };

static void *work(void *inherited) {
    free(inherited);
    void *blocks[50];
    for (int n = 0; n < 50; n++) {
        blocks[n] = malloc((size_t)n * n + 1);
        if (blocks[n] == NULL) abort();
        memset(blocks[n], n, (size_t)n * n + 1);
    }
    for (int n = 0; n < 49; n++) free(blocks[n]);
    return blocks[49];
}

int main(void) {
    pthread_t threads[AT_ONCE];
    void *left[AT_ONCE] = {0};
    for (int begun = 0; begun < THREADS; begun += AT_ONCE) {
        for (int n = 0; n < AT_ONCE; n++) {
            if (pthread_create(&threads[n], NULL, work, left[n]) != 0) abort();
        }
        for (int n = 0; n < AT_ONCE; n++) pthread_join(threads[n], &left[n]);
    }
    for (int n = 0; n < AT_ONCE; n++) free(left[n]);
    printf("%d threads\n", THREADS);
    return 0;
}
