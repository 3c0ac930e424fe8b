/* Two helpers that make a CPU share below one core behave like a slow core (hosts/README.md, "Slow hosts").
 *
 *   slowcore burn     eat what a host's CPU group would leave unused, so that it cannot save up quota for a burst;
 *                     SCHED_IDLE, so any other process of the group goes first
 *   slowcore tick US  wake a real-time thread on every core each US microseconds: at HZ=250 the kernel would look at
 *                     quotas only every 4 ms, and bursts below that would run at full speed
 *
 * Each says "up" once the kernel has given it that scheduling, or why not and ends.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

static const long second_ns = 1000000000L;
static long period_ns;
static pthread_barrier_t all_tick;

static void say_up(void) {
    puts("up");
    fflush(stdout);
}

static int burn(void) {
    struct sched_param none = {0};
    if (sched_setscheduler(0, SCHED_IDLE, &none) != 0) {
        perror("slowcore burn");
        return 1;
    }
    say_up();
    for (;;) {
        __asm__ volatile("" ::: "memory");
    }
}

static void *tick(void *argument) {
    cpu_set_t core;
    struct sched_param first = {.sched_priority = 10};
    struct timespec wake, now;

    CPU_ZERO(&core);
    CPU_SET((size_t)argument, &core);
    pthread_setaffinity_np(pthread_self(), sizeof core, &core);
    if (sched_setscheduler(0, SCHED_FIFO, &first) != 0) {
        perror("slowcore tick");
        exit(1);
    }
    prctl(PR_SET_TIMERSLACK, 1);
    pthread_barrier_wait(&all_tick);
    clock_gettime(CLOCK_MONOTONIC, &wake);
    for (;;) {
        wake.tv_nsec += period_ns;
        while (wake.tv_nsec >= second_ns) {
            wake.tv_nsec -= second_ns;
            wake.tv_sec++;
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (now.tv_sec > wake.tv_sec + 1) { /* the machine was suspended: do not catch up */
            wake = now;
        }
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &wake, NULL);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "burn") == 0) {
        return burn();
    }
    if (argc == 3 && strcmp(argv[1], "tick") == 0 && (period_ns = atol(argv[2]) * 1000) > 0) {
        long cores = sysconf(_SC_NPROCESSORS_ONLN);
        pthread_t thread;
        pthread_barrier_init(&all_tick, NULL, (unsigned)cores + 1);
        for (long core = 0; core < cores; core++) {
            if (pthread_create(&thread, NULL, tick, (void *)core) != 0) {
                fputs("slowcore tick: no thread for each core\n", stderr);
                return 1;
            }
        }
        pthread_barrier_wait(&all_tick);
        say_up();
        pause();
        return 0;
    }
    fputs("usage: slowcore burn | slowcore tick MICROSECONDS\n", stderr);
    return 2;
}
