/* A program with functions of each kind that a reader of symbols and debug information meets. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int sizeless(int);
int sized(int);

static inline int innermost(int value) {
    volatile int hidden = value;
    return hidden * 3 + 1;
}

static inline __attribute__((always_inline)) int inner(int value) {
    int sum = 0;
    for (int at = 0; at < value; at++)
        sum += innermost(at) ^ value;
    return sum;
}

static inline __attribute__((always_inline)) int outer(int value) {
    return inner(value) - inner(value / 2);
}

__attribute__((noinline)) int calls_inlined(int value) {
    if (value < 0)
        return -1;
    return outer(value) + outer(value + 3);
}

__attribute__((noinline)) static int recursive(int depth) {
    return depth > 0 ? recursive(depth - 1) + depth : inner(depth + 4);
}

__attribute__((noinline, cold)) static void rarely(const char *why) {
    fprintf(stderr, "%s\n", why);
    exit(3);
}

static int compare(const void *left, const void *right) {
    return *(const int *)left - *(const int *)right;
}

__attribute__((noinline)) int sorts(int *values, size_t count) {
    qsort(values, count, sizeof *values, compare);
    if (values[0] > values[count - 1])
        rarely("not sorted");
    return values[count / 2];
}

__attribute__((weak)) int weak(int value) {
    return value ^ 0x55;
}

extern int alias(int) __attribute__((alias("weak")));

int main(int count, char **arguments) {
    int values[64];
    for (int at = 0; at < 64; at++)
        values[at] = (at * 37 + count) % 61;
    int result = calls_inlined(count) + recursive(count) + sorts(values, 64) + weak(count) + alias(count);
    result += sizeless(result) + sized(result) + (int)strlen(arguments[0]);
    printf("%d\n", result);
    return 0;
}
