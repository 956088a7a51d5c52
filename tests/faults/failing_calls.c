/* Loaded by LD_PRELOAD: makes one system call on a path below a folder fail, or kills the process
   there. `fault_arm` chooses the call; `fault_calls` says how many were made since then. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LONGEST = 4096 };

static char folder[LONGEST];  /* empty: no fault is armed */
static char kinds[64];        /* of the calls that count: " open write ", or " all " */
static long nth;              /* the call that fails, from 1; 0: none */
static int persists;          /* all calls after it fail too */
static int error_number;      /* 0: the process is killed */
static long calls;
static FILE* names;  /* one line per call: its kind and its path */

/* Returns 0, or -1 if `folder` or the names of the kinds are too long. */
int fault_arm(const char* below, const char* of_kinds, long at, int persisting, int number,
              const char* log) {
  if (strlen(below) >= sizeof folder || strlen(of_kinds) >= sizeof kinds) return -1;
  folder[0] = '\0';
  names = log ? fopen(log, "w") : NULL;
  strcpy(kinds, of_kinds);
  nth = at;
  persists = persisting;
  error_number = number;
  calls = 0;
  strcpy(folder, below);
  return 0;
}

long fault_calls(void) { return calls; }

/* Whether this call on the path is to fail. The process ends here if it is to be killed. */
static int fails(const char* kind, const char* path) {
  char word[32];
  if (folder[0] == '\0' || path == NULL || strncmp(path, folder, strlen(folder)) != 0) return 0;
  snprintf(word, sizeof word, " %s ", kind);
  if (strstr(kinds, word) == NULL && strstr(kinds, " all ") == NULL) return 0;
  ++calls;
  if (names != NULL) {
    fprintf(names, "%s %s\n", kind, path + strlen(folder));
    fflush(names);
  }
  if (nth == 0 || calls < nth || (calls > nth && !persists)) return 0;
  if (error_number == 0) raise(SIGKILL);
  errno = error_number;
  return 1;
}

static int fails_on(const char* kind, int descriptor) {
  char link[64], path[LONGEST];
  if (folder[0] == '\0') return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = readlink(link, path, sizeof path - 1);
  if (length < 0) return 0;
  path[length] = '\0';
  return fails(kind, path);
}

static int fails_at(const char* kind, int at, const char* path) {
  return path[0] == '/' || at == AT_FDCWD ? fails(kind, path) : fails_on(kind, at);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static mode_t mode_of(int flags, va_list arguments) {
  return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return fails("open", path) ? -1 : REAL(open64)(path, flags, mode);
}

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return open64(path, flags, mode);
}

int openat64(int at, const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return fails_at("open", at, path) ? -1 : REAL(openat64)(at, path, flags, mode);
}

int openat(int at, const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  return openat64(at, path, flags, mode);
}

ssize_t read(int descriptor, void* buffer, size_t size) {
  return fails_on("read", descriptor) ? -1 : REAL(read)(descriptor, buffer, size);
}

ssize_t write(int descriptor, const void* buffer, size_t size) {
  return fails_on("write", descriptor) ? -1 : REAL(write)(descriptor, buffer, size);
}

ssize_t pwrite64(int descriptor, const void* buffer, size_t size, off64_t offset) {
  return fails_on("write", descriptor) ? -1 : REAL(pwrite64)(descriptor, buffer, size, offset);
}

int fsync(int descriptor) { return fails_on("fsync", descriptor) ? -1 : REAL(fsync)(descriptor); }

int ftruncate64(int descriptor, off64_t size) {
  return fails_on("ftruncate", descriptor) ? -1 : REAL(ftruncate64)(descriptor, size);
}

int close(int descriptor) {
  if (!fails_on("close", descriptor)) return REAL(close)(descriptor);
  REAL(close)(descriptor); /* as on a network file system: closed, and the write was lost */
  errno = error_number;
  return -1;
}

int rename(const char* from, const char* to) {
  return fails("rename", to) ? -1 : REAL(rename)(from, to);
}

int mkdir(const char* path, mode_t mode) {
  return fails("mkdir", path) ? -1 : REAL(mkdir)(path, mode);
}

int rmdir(const char* path) { return fails("rmdir", path) ? -1 : REAL(rmdir)(path); }

int unlink(const char* path) { return fails("unlink", path) ? -1 : REAL(unlink)(path); }

int unlinkat(int at, const char* path, int flags) {
  return fails_at("unlink", at, path) ? -1 : REAL(unlinkat)(at, path, flags);
}

DIR* opendir(const char* path) { return fails("opendir", path) ? NULL : REAL(opendir)(path); }

void* mmap64(void* address, size_t size, int protection, int flags, int descriptor,
             off64_t offset) {
  if (descriptor >= 0 && fails_on("mmap", descriptor)) return MAP_FAILED;
  return REAL(mmap64)(address, size, protection, flags, descriptor, offset);
}
