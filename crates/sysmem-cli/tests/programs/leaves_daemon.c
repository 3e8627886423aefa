// Leaves a daemon behind that outlives it, as services do: exits when the daemon says that it is
// up. The daemon ends when the file that was named is gone.
#define _GNU_SOURCE
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **words) {
    int ends[2];
    char byte = 0;
    if (count != 2 || pipe(ends) != 0) return 1;
    pid_t pid = fork();
    if (pid < 0) return 1;
    if (pid > 0) return read(ends[0], &byte, 1) == 1 ? 0 : 1;
    setsid();
    if (write(ends[1], &byte, 1) != 1) return 1;
    for (int fd = 0; fd < 1024; fd++) close(fd);
    while (access(words[1], F_OK) == 0) {
        free(malloc(1000));
        nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
    }
    return 0;
}
