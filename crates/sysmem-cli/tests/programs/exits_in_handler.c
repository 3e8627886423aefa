// Ends in a signal handler, at any moment of an allocation, as programs do that are told to end:
// _exit is one of the calls that a handler may make (signal-safety(7)).
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CHILDREN = 300, HELD = 64 };

static void end(int number) {
    (void)number;
    _exit(5);
}

static void churn_until_the_end(unsigned random) {
    static void *held[HELD];
    signal(SIGALRM, end);
    struct itimerval soon = {.it_value = {.tv_usec = 1000 + random * 7}};
    setitimer(ITIMER_REAL, &soon, NULL);
    for (;;) {
        random = random * 1103515245 + 12345;
        unsigned place = random >> 20 & (HELD - 1);
        free(held[place]);
        // Whole pages: most of the time is spent under the lock of the page heap.
        held[place] = malloc(66000 + (random >> 16 & 7) * 8192);
    }
}

int main(void) {
    int good = 0;
    for (unsigned n = 0; n < CHILDREN; n++) {
        pid_t pid = fork();
        if (pid < 0) abort();
        if (pid == 0) churn_until_the_end(n);
        int status, waited = 0;
        while (waitpid(pid, &status, WNOHANG) == 0) {
            usleep(1000);
            if (++waited == 5000) {
                puts("a child is stuck");
                kill(pid, SIGKILL);
                return 1;
            }
        }
        good += WIFEXITED(status) && WEXITSTATUS(status) == 5;
    }
    printf("%d of %d ended\n", good, CHILDREN);
    return 0;
}
