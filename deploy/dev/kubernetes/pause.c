// What holds a pod's namespaces while its containers come and go: it waits, ends when told to, and reaps nobody, because the
// kernel does where SIGCHLD is ignored.
#include <signal.h>
#include <unistd.h>

static void end(int number) {
    (void)number;
    _exit(0);
}

int main(void) {
    signal(SIGINT, end);
    signal(SIGTERM, end);
    signal(SIGCHLD, SIG_IGN);
    for (;;) pause();
}
