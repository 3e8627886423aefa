// Says "ready"; says "got" for each SIGUSR1, SIGINT, SIGHUP and SIGRTMIN that comes; when SIGTERM
// comes, says how many came of each and which value the last one carried.
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t counts[65], value;

static void count(int number, siginfo_t *info, void *context) {
    (void)context;
    counts[number]++;
    if (info->si_code == SI_QUEUE) value = info->si_value.sival_int;
    if (number != SIGTERM && write(1, "got\n", 4) != 4) _exit(1);
}

int main(int count_of_words, char **words) {
    sigset_t all, before;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &before);
    sigdelset(&before, SIGTERM);
    struct sigaction action = {.sa_sigaction = count, .sa_flags = SA_SIGINFO | SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    sigaction(SIGRTMIN, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    puts("ready");
    fflush(stdout);
    // "group": tells its whole process group, of which the command is one.
    if (count_of_words > 1 && strcmp(words[1], "group") == 0) kill(0, SIGUSR1);
    while (counts[SIGTERM] == 0) sigsuspend(&before);
    printf("USR1 %d INT %d HUP %d RT %d value %d\n", (int)counts[SIGUSR1], (int)counts[SIGINT],
           (int)counts[SIGHUP], (int)counts[SIGRTMIN], (int)value);
    return 9;
}
