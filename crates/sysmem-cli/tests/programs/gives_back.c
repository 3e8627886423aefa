// Uses 256 MiB in blocks of the size named, frees them and asks for the memory to be given back.
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

int main(int count, char **words) {
    if (count != 2) return 1;
    size_t size = (size_t)atol(words[1]), blocks = ((size_t)256 << 20) / size;
    char **all = malloc(blocks * sizeof *all);
    for (size_t n = 0; n < blocks; n++) {
        all[n] = malloc(size);
        if (all[n] == NULL) return 2;
        memset(all[n], 1, size);
    }
    for (size_t n = 0; n < blocks; n++) free(all[n]);
    free(all);
    malloc_trim(0);
    return 0;
}
