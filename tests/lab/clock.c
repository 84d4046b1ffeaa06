/* Preloaded into one program, sets its wall clock off by the seconds that the file $WALL_CLOCK holds, read at each look: a
 * clock that is set while the program runs. Other clocks and all timers go as ever, which libfaketime can't do for timerfd.
 *   cc -shared -fPIC -O1 -o clock.so clock.c */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    long failed = syscall(SYS_clock_gettime, clock, now);
    const char *name = getenv("WALL_CLOCK");
    char text[32] = "";
    if (failed || clock != CLOCK_REALTIME || !name)
        return (int)failed;
    int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    if (read(file, text, sizeof text - 1) > 0)
        now->tv_sec += strtol(text, NULL, 10);
    close(file);
    return 0;
}
