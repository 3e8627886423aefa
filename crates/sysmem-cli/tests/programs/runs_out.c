// Allocates until there is nothing left, which must be told by NULL and ENOMEM; goes on with what
// it frees. Meant for a limit on address space.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct link {
    struct link *next;
};

static int fill_and_free(size_t size) {
    struct link *first = NULL;
    size_t count = 0;
    errno = 0;
    for (;;) {
        struct link *link = malloc(size);
        if (link == NULL) break;
        memset(link, 1, size);
        link->next = first;
        first = link;
        count++;
    }
    if (errno != ENOMEM) return 0;
    // The bigger half of what there is must be for the program.
    size_t bytes = count * size;
    while (first != NULL) {
        struct link *next = first->next;
        free(first);
        first = next;
    }
    return bytes > ((size_t)64 << 20);
}

int main(void) {
    size_t sizes[] = {1 << 20, 100, 64 << 10, 5000, 16};
    for (int round = 0; round < 2; round++) {
        for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++) {
            if (!fill_and_free(sizes[n])) {
                printf("round %d, size %zu: wrong\n", round, sizes[n]);
                return 1;
            }
        }
    }
    errno = 0;
    if (calloc((size_t)1 << 20, 1 << 20) != NULL || errno != ENOMEM) return 2;
    char *small = malloc(10), *grown = realloc(small, (size_t)1 << 40);
    if (small == NULL || grown != NULL || errno != ENOMEM) return 3;
    strcpy(small, "went on");
    puts(small);
    free(small);
    return 0;
}
