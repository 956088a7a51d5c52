/* Loaded by LD_PRELOAD: makes one system call on a path below a folder fail, or kills the process
   there, or runs a shell command before it. `fault_arm` chooses the call; `fault_calls` says how
   many were made since then.
   `fault_trace` records every call that changes the folder, for disk.py. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LONGEST = 4096 };

static char folder[LONGEST];  /* empty: no fault is armed */
static char kinds[64];        /* of the calls that count: " open write ", or " all " */
static long nth;              /* the call that fails, from 1; 0: none */
static int persists;          /* all calls after it fail too */
static int error_number;      /* 0: the process is killed */
static char action[LONGEST];  /* shell command that is run instead, once; empty: none */
static long calls;
static FILE* names;  /* one line per call: its kind and its path */
static FILE* trace;  /* one line per call that has changed the folder, with fields between tabs */

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

/* Run a shell command before the chosen call, which then succeeds or not by itself. */
int fault_act(const char* command) {
  if (strlen(command) >= sizeof action) return -1;
  strcpy(action, command);
  return 0;
}

long fault_calls(void) { return calls; }

/* Returns 0, or -1 if the trace cannot be written. */
int fault_trace(const char* below, const char* path) {
  if (fault_arm(below, " ", 0, 0, 0, NULL) != 0) return -1;
  trace = fopen(path, "w");
  return trace == NULL ? -1 : 0;
}

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
  if (action[0] != '\0') {
    folder[0] = '\0';
    const int status = system(action);
    if (status != 0) abort();
    return 0;
  }
  if (error_number == 0) raise(SIGKILL);
  errno = error_number;
  return 1;
}

/* Writes the path of an open file; returns whether it has one. */
static int path_of(int descriptor, char path[LONGEST]) {
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  const ssize_t length = readlink(link, path, LONGEST - 1);
  if (length < 0) return 0;
  path[length] = '\0';
  return 1;
}

static int fails_on(const char* kind, int descriptor) {
  char path[LONGEST];
  return folder[0] != '\0' && path_of(descriptor, path) && fails(kind, path);
}

static int fails_at(const char* kind, int at, const char* path) {
  return path[0] == '/' || at == AT_FDCWD ? fails(kind, path) : fails_on(kind, at);
}

/* Whether the path is to be traced. Leaves errno as it is. */
static int is_traced(const char* path) {
  return trace != NULL && strncmp(path, folder, strlen(folder)) == 0;
}

static void record(const char* kind, const char* path) {
  if (is_traced(path)) fprintf(trace, "%s\t%s\n", kind, path + strlen(folder));
  if (trace != NULL) fflush(trace);
}

static void record_on(const char* kind, int descriptor) {
  char path[LONGEST];
  if (trace != NULL && path_of(descriptor, path)) record(kind, path);
}

static void record_bytes(int descriptor, const unsigned char* bytes, ssize_t size, off64_t offset) {
  char path[LONGEST];
  if (trace == NULL || size <= 0 || !path_of(descriptor, path) || !is_traced(path)) return;
  fprintf(trace, "write\t%s\t%lld\t", path + strlen(folder), (long long)offset);
  for (ssize_t i = 0; i < size; ++i) fprintf(trace, "%02x", bytes[i]);
  fputc('\n', trace);
  fflush(trace);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Where the next write to the file goes. */
static off64_t next_offset(int descriptor) {
  if (trace == NULL) return 0;
  const int appends = (fcntl(descriptor, F_GETFL) & O_APPEND) != 0;
  struct stat64 status;
  if (appends && REAL(fstat64)(descriptor, &status) == 0) return status.st_size;
  return REAL(lseek64)(descriptor, 0, SEEK_CUR);
}

static int removed(int result, const char* kind, int at, const char* path) {
  char whole[2 * LONGEST] = "";
  if (result != 0 || trace == NULL) return result;
  if (path[0] != '/' && path_of(at, whole)) strcat(whole, "/");
  strncat(whole, path, LONGEST);
  record(kind, whole);
  return result;
}

static mode_t mode_of(int flags, va_list arguments) {
  return flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
}

/* Apart, because all but changes work on a read-only disk. */
static const char* kind_of_open(int flags) {
  return flags & (O_ACCMODE | O_CREAT | O_TRUNC) ? "open-to-write" : "open";
}

int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_of(flags, arguments);
  va_end(arguments);
  if (fails(kind_of_open(flags), path)) return -1;
  const int is_new = trace != NULL && (flags & O_CREAT) && access(path, F_OK) != 0;
  const int descriptor = REAL(open64)(path, flags, mode);
  if (descriptor >= 0 && is_new) record("create", path);
  if (descriptor >= 0 && !is_new && (flags & O_TRUNC)) record("empty", path);
  return descriptor;
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
  return fails_at(kind_of_open(flags), at, path) ? -1 : REAL(openat64)(at, path, flags, mode);
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
  if (fails_on("write", descriptor)) return -1;
  const off64_t offset = next_offset(descriptor);
  const ssize_t written = REAL(write)(descriptor, buffer, size);
  record_bytes(descriptor, buffer, written, offset);
  return written;
}

ssize_t pwrite64(int descriptor, const void* buffer, size_t size, off64_t offset) {
  if (fails_on("write", descriptor)) return -1;
  const ssize_t written = REAL(pwrite64)(descriptor, buffer, size, offset);
  record_bytes(descriptor, buffer, written, offset);
  return written;
}

int fsync(int descriptor) {
  if (fails_on("fsync", descriptor)) return -1;
  const int result = REAL(fsync)(descriptor);
  if (result == 0) record_on("fsync", descriptor);
  return result;
}

int ftruncate64(int descriptor, off64_t size) {
  char kind[64];
  if (fails_on("ftruncate", descriptor)) return -1;
  const int result = REAL(ftruncate64)(descriptor, size);
  snprintf(kind, sizeof kind, "truncate\t%lld", (long long)size);
  if (result == 0) record_on(kind, descriptor);
  return result;
}

int close(int descriptor) {
  if (!fails_on("close", descriptor)) return REAL(close)(descriptor);
  REAL(close)(descriptor); /* as on a network file system: closed, and the write was lost */
  errno = error_number;
  return -1;
}

int rename(const char* from, const char* to) {
  if (fails("rename", to)) return -1;
  const int result = REAL(rename)(from, to);
  if (result == 0 && is_traced(from)) {
    fprintf(trace, "rename\t%s\t", from + strlen(folder));
    fprintf(trace, "%s\n", to + strlen(folder));
    fflush(trace);
  }
  return result;
}

int mkdir(const char* path, mode_t mode) {
  if (fails("mkdir", path)) return -1;
  const int result = REAL(mkdir)(path, mode);
  if (result == 0) record("mkdir", path);
  return result;
}

int rmdir(const char* path) {
  return fails("rmdir", path) ? -1 : removed(REAL(rmdir)(path), "remove", AT_FDCWD, path);
}

int unlink(const char* path) {
  return fails("unlink", path) ? -1 : removed(REAL(unlink)(path), "remove", AT_FDCWD, path);
}

int unlinkat(int at, const char* path, int flags) {
  if (fails_at("unlink", at, path)) return -1;
  return removed(REAL(unlinkat)(at, path, flags), "remove", at, path);
}

/* A file that is not there is no fault: these calls also ask whether one is. */
static int fails_if_there(const char* kind, int at, const char* path) {
  return folder[0] != '\0' && REAL(faccessat)(at, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0 &&
         fails_at(kind, at, path);
}

int stat64(const char* path, struct stat64* to) {
  return fails_if_there("stat", AT_FDCWD, path) ? -1 : REAL(stat64)(path, to);
}

int lstat64(const char* path, struct stat64* to) {
  return fails_if_there("stat", AT_FDCWD, path) ? -1 : REAL(lstat64)(path, to);
}

int fstat64(int descriptor, struct stat64* to) {
  return fails_on("fstat", descriptor) ? -1 : REAL(fstat64)(descriptor, to);
}

int fstatat64(int at, const char* path, struct stat64* to, int flags) {
  return fails_if_there("stat", at, path) ? -1 : REAL(fstatat64)(at, path, to, flags);
}

int flock(int descriptor, int operation) {
  return fails_on("flock", descriptor) ? -1 : REAL(flock)(descriptor, operation);
}

off64_t lseek64(int descriptor, off64_t offset, int from) {
  return fails_on("lseek", descriptor) ? -1 : REAL(lseek64)(descriptor, offset, from);
}

ssize_t pread64(int descriptor, void* buffer, size_t size, off64_t offset) {
  return fails_on("read", descriptor) ? -1 : REAL(pread64)(descriptor, buffer, size, offset);
}

struct dirent64* readdir64(DIR* entries) {
  return fails_on("readdir", dirfd(entries)) ? NULL : REAL(readdir64)(entries);
}

DIR* opendir(const char* path) { return fails("opendir", path) ? NULL : REAL(opendir)(path); }

void* mmap64(void* address, size_t size, int protection, int flags, int descriptor,
             off64_t offset) {
  if (descriptor >= 0 && fails_on("mmap", descriptor)) return MAP_FAILED;
  return REAL(mmap64)(address, size, protection, flags, descriptor, offset);
}
