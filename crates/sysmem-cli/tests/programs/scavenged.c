// Fills 300 MiB, frees them and waits, in the way named, and says what became of the process.
// Nothing here calls malloc while it waits.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MIB = 1 << 20, TOTAL = 300 * MIB, SMALL = 1000 };
static void *blocks[TOTAL / SMALL];

// A figure of /proc/self/status, read without the C library's streams, which allocate.
static long figure(const char *name) {
    static char text[8192];
    int file = open("/proc/self/status", O_RDONLY);
    ssize_t length = read(file, text, sizeof text - 1);
    close(file);
    text[length < 0 ? 0 : length] = 0;
    const char *found = strstr(text, name);
    return found ? atol(found + strlen(name)) : -1;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void milliseconds(long count) {
    struct timespec time = {count / 1000, count % 1000 * 1000000};
    while (nanosleep(&time, &time) != 0) {}
}

static void fill_and_free(size_t size) {
    size_t count = TOTAL / size;
    for (size_t n = 0; n < count; n++) {
        blocks[n] = malloc(size);
        memset(blocks[n], 1, size);
    }
    for (size_t n = 0; n < count; n++) free(blocks[n]);
}

// Fills and frees; then says how many hundredths of a second it took to come down to 30 MiB.
static void comes_down(size_t size, const char *who) {
    fill_and_free(size);
    double freed = now();
    while (figure("VmRSS:") > 30 * 1024 && now() < freed + 20) milliseconds(10);
    printf("%s down %d threads %ld\n", who, (int)((now() - freed) * 100), figure("Threads:"));
    fflush(stdout);
}

static void *waits(void *unused) {
    for (;;) pause();
    return unused;
}

static void *outlives_main(void *unused) {
    milliseconds(300);
    puts("last thread ends");
    fflush(stdout);
    return unused;
}

static volatile sig_atomic_t elsewhere, here;
static void note(int number) {
    (void)number;
    if (gettid() == getpid()) here++;
    else elsewhere++;
}

static void allocates_in_fork(void) {
    char *block = malloc(40 * MIB);
    memset(block, 1, 40 * MIB);
    free(block);
}

int main(int count, char **words) {
    const char *mode = count > 1 ? words[1] : "";
    pthread_t thread;
    if (strcmp(mode, "small") == 0) {
        comes_down(SMALL, "program");
    } else if (strcmp(mode, "large") == 0) {
        comes_down(MIB, "program");
    } else if (strcmp(mode, "huge") == 0) {
        comes_down(TOTAL, "program");
    } else if (strcmp(mode, "threads") == 0) {
        pthread_create(&thread, NULL, waits, NULL);
        comes_down(SMALL, "program");
    } else if (strcmp(mode, "fork") == 0) {
        comes_down(SMALL, "parent");
        if (fork() == 0) {
            printf("child threads %ld\n", figure("Threads:"));
            comes_down(SMALL, "child");
            _exit(0);
        }
        wait(NULL);
        comes_down(SMALL, "parent");
    } else if (strcmp(mode, "fork handlers") == 0) {
        pthread_atfork(allocates_in_fork, allocates_in_fork, allocates_in_fork);
        for (int round = 0; round < 20; round++) {
            if (fork() == 0) _exit(0);
            int status;
            wait(&status);
            if (status != 0) return 1;
        }
        comes_down(SMALL, "program");
    } else if (strcmp(mode, "vfork") == 0) {
        // What the child frees is the parent's memory; a thread that it started would end with it.
        char *block = malloc(100 * MIB);
        memset(block, 1, 100 * MIB);
        if (vfork() == 0) {
            free(block);
            execlp("true", "true", (char *)NULL);
            _exit(127);
        }
        wait(NULL);
        comes_down(SMALL, "program");
    } else if (strcmp(mode, "dlopen") == 0) {
        fill_and_free(SMALL);
        for (int round = 0; round < 50; round++) {
            void *library = dlopen("libz.so.1", RTLD_NOW);
            if (library == NULL) library = dlopen("libm.so.6", RTLD_NOW);
            if (library == NULL) return 1;
            milliseconds(20);
            dlclose(library);
        }
        comes_down(SMALL, "program");
    } else if (strcmp(mode, "main ends") == 0) {
        comes_down(SMALL, "program");
        pthread_create(&thread, NULL, outlives_main, NULL);
        pthread_exit(NULL);
    } else if (strcmp(mode, "only main ends") == 0) {
        comes_down(SMALL, "program");
        pthread_exit(NULL);
    } else if (strcmp(mode, "signals") == 0) {
        signal(SIGUSR1, note);
        comes_down(SMALL, "program");
        for (int n = 0; n < 1000; n++) kill(getpid(), SIGUSR1);
        // With nobody else to take it, a signal that main blocks waits.
        sigset_t usr1;
        sigemptyset(&usr1);
        sigaddset(&usr1, SIGUSR1);
        sigprocmask(SIG_BLOCK, &usr1, NULL);
        int before = here;
        kill(getpid(), SIGUSR1);
        milliseconds(100);
        int waited = here == before && elsewhere == 0;
        sigprocmask(SIG_UNBLOCK, &usr1, NULL);
        printf("elsewhere %d waited %d\n", (int)elsewhere, waited);
    } else if (strcmp(mode, "little") == 0) {
        char *block = malloc(20 * MIB);
        memset(block, 1, 20 * MIB);
        free(block);
        printf("threads %ld\n", figure("Threads:"));
    } else if (strcmp(mode, "limit") == 0) {
        // Until there is no more, then freed, twice: how many MiB there were.
        for (int round = 0; round < 2; round++) {
            size_t count = 0;
            while (count < TOTAL / SMALL && (blocks[count] = malloc(SMALL)) != NULL) {
                memset(blocks[count++], 1, SMALL);
            }
            for (size_t n = 0; n < count; n++) free(blocks[n]);
            printf("round%d %d\n", round, (int)(count * SMALL / MIB));
        }
        printf("peak %ld\n", figure("VmHWM:") / 1024);
    } else {
        return 2;
    }
    return 0;
}
