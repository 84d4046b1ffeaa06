// The guest's own load: reads or writes at random places of a disk, each one timed.
//   writer read|write DEVICE FIRST_MIB SPAN_MIB BYTES PER_SECOND
// A write counts once it is synced. At SIGUSR1 it prints "WRITER <count> <first> <p50> <p99> <max>" (microseconds) of those
// since the last such line, to the first serial port.
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MOST 1000000 /* timed ones between two lines: hours at the rates used */

static volatile sig_atomic_t asked;
static uint32_t took[MOST];
static uint64_t state = 0x9e3779b97f4a7c15;

static void ask(int number) { (void)number; asked = 1; }

static uint64_t draw(void) { state ^= state << 13; state ^= state >> 7; return state ^= state << 17; }

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int order(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

static void tell(size_t count) {
  FILE *port = fopen("/dev/ttyS0", "w");
  uint32_t first = count ? took[0] : 0;
  qsort(took, count, sizeof *took, order);
#define SHARE(percent) (count ? took[(count * percent + 99) / 100 - 1] : 0)
  if (port) { fprintf(port, "\nWRITER %zu %u %u %u %u\n", count, first, SHARE(50), SHARE(99), SHARE(100)); fclose(port); }
}

int main(int count, char **words) {
  if (count != 7) return 2;
  int is_write = !strcmp(words[1], "write"), disk = open(words[2], (is_write ? O_RDWR : O_RDONLY) | O_DIRECT);
  uint64_t first = strtoull(words[3], 0, 10) << 20, span = strtoull(words[4], 0, 10) << 20;
  size_t bytes = strtoul(words[5], 0, 10), timed = 0;
  uint64_t pause = 1000000000ull / strtoul(words[6], 0, 10), due = now();
  uint64_t *buffer = aligned_alloc(4096, bytes);
  if (disk < 0 || !buffer) return 1;
  signal(SIGUSR1, ask);
  // The emulator translates all this once; that is not the disk's time.
  if (pread(disk, buffer, bytes, first) != (ssize_t)bytes) return 1;
  for (;;) {
    uint64_t at = first + draw() % (span / bytes) * bytes, began;
    for (size_t word = 0; is_write && word < bytes / 8; word++) buffer[word] = draw();
    began = now();
    ssize_t done = is_write ? pwrite(disk, buffer, bytes, at) : pread(disk, buffer, bytes, at);
    if (done != (ssize_t)bytes || (is_write && fdatasync(disk))) return 1;
    if (timed < MOST) took[timed++] = (now() - began) / 1000;
    if (asked) { asked = 0; tell(timed); timed = 0; }
    due += pause;
    if (due < now()) due = now(); // behind: no burst afterwards
    struct timespec until = {due / 1000000000, due % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, 0);
  }
}
