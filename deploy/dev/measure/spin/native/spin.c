// Programs whose behaviour is known, for those who watch them: built without frame pointers.
//
//   spin-native spin         computes for ever; three calls of four come by orders and price, one by stock and count
//   spin-native storm RATE   starts RATE times a second a program that ends at once, one after the other
//
// Prints the address of each function, then ten times a second what was done since the start: how often, how long that took
// altogether (nanoseconds, of a storm only), and when that was (nanoseconds of the monotonic clock).
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>

enum { STEPS = 100000, TELL_NS = 100000000, SECOND_NS = 1000000000 };

// Nothing of a call may be folded into its caller: the callers are what is asked for.
#define KNOWN __attribute__((noinline, noclone))
#define BARRIER(value) __asm__ volatile("" : "+r"(value))

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * SECOND_NS + (uint64_t)now.tv_nsec;
}

static KNOWN uint64_t churn(uint64_t state) {
    for (int step = 0; step < STEPS; step++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
    }
    return state;
}

// Each works on the answer, so that no call is a jump.
static KNOWN uint64_t price(uint64_t state) {
    state = churn(state);
    BARRIER(state);
    return state + 1;
}

static KNOWN uint64_t count(uint64_t state) {
    state = churn(state);
    BARRIER(state);
    return state + 2;
}

static KNOWN uint64_t orders(uint64_t state) {
    state = price(state);
    BARRIER(state);
    return state + 3;
}

static KNOWN uint64_t stock(uint64_t state) {
    state = count(state);
    BARRIER(state);
    return state + 4;
}

static KNOWN uint64_t work(uint64_t turn, uint64_t state) {
    state = turn % 4 == 3 ? stock(state) : orders(state);
    BARRIER(state);
    return state | 1;
}

static void tell(uint64_t done, uint64_t took_ns, uint64_t at_ns) {
    printf("%llu %llu %llu\n", (unsigned long long)done, (unsigned long long)took_ns, (unsigned long long)at_ns);
    // Nobody reads any more: nobody needs this.
    if (fflush(stdout) != 0) {
        exit(0);
    }
}

static void spin(void) {
    uint64_t state = 88172645463325252u, due = 0;
    for (uint64_t turn = 0;; turn++) {
        uint64_t now = now_ns();
        if (now >= due) {
            tell(turn, 0, now);
            due = now + TELL_NS;
        }
        state = work(turn, state);
    }
}

static void storm(uint64_t rate) {
    extern char **environ;
    char name[] = "/bin/true";
    char *arguments[] = {name, NULL};
    uint64_t took = 0, next = now_ns(), due = 0;
    for (uint64_t done = 0;;) {
        uint64_t now = now_ns();
        if (now >= due) {
            tell(done, took, now);
            due = now + TELL_NS;
        }
        if (now < next) {
            struct timespec rest = {0, (long)(next - now)};
            nanosleep(&rest, NULL);
            continue;
        }
        // What is late by a second was not asked for by anybody; it is not made up for.
        next = now - next > SECOND_NS ? now : next + SECOND_NS / rate;
        pid_t child;
        if (posix_spawn(&child, name, NULL, NULL, arguments, environ) != 0 || waitpid(child, NULL, 0) < 0) {
            perror("storm");
            exit(1);
        }
        took += now_ns() - now;
        done++;
    }
}

int main(int argc, char **argv) {
    const struct {
        const char *name;
        const void *begin;
    } known[] = {{"churn", churn}, {"price", price}, {"count", count}, {"orders", orders}, {"stock", stock}, {"work", work}};
    for (size_t at = 0; at < sizeof known / sizeof known[0]; at++) {
        printf("function %s %llu\n", known[at].name, (unsigned long long)(uintptr_t)known[at].begin);
    }
    if (argc == 3 && strcmp(argv[1], "storm") == 0) {
        uint64_t rate = strtoull(argv[2], NULL, 10);
        if (rate > 0 && rate <= 10000) {
            storm(rate);
        }
    } else if (argc == 2 && strcmp(argv[1], "spin") == 0) {
        spin();
    }
    fprintf(stderr, "usage: spin-native spin | storm RATE\n");
    return 64;
}
