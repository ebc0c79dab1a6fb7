/* Preloaded into a process: notes in a log what it asks of the disk below one directory.
 *
 * POWER_CUT_ROOT names the directory, POWER_CUT_LOG the log. An entry is a header as `struct entry`,
 * one or two paths, and the bytes. What is asked to be synced is only noted, which is quicker. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define DESCRIPTORS 65536
#define ASIDE 1000
#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))real(#name))

struct __attribute__((packed)) entry {
  char kind;
  uint64_t nanoseconds, inode, offset;
  uint32_t path, other;
  uint64_t bytes;
};

enum { OTHER, PLAIN, BUFFERED };
static char held[DESCRIPTORS];
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static const char *root;
static int log_file = -1;

static void *real(const char *name) {
  void *found = dlsym(RTLD_NEXT, name);
  if (!found) abort();
  return found;
}

static void lock(void) { pthread_mutex_lock(&turn); }
static void unlock(void) { pthread_mutex_unlock(&turn); }

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("POWER_CUT_LOG");
  root = getenv("POWER_CUT_ROOT");
  if (!root || !path) return;
  int opened = REAL(int, open, const char *, int, ...)(path, O_WRONLY | O_APPEND | O_CREAT, 0600);
  log_file = fcntl(opened, F_DUPFD_CLOEXEC, ASIDE);
  REAL(int, close, int)(opened);
  pthread_atfork(lock, unlock, unlock);
}

static void note(char kind, uint64_t inode, uint64_t offset, const char *path, const char *other,
                 const void *bytes, size_t size) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  struct entry entry = {kind, (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec, inode,
                        offset, path ? strlen(path) : 0, other ? strlen(other) : 0, size};
  struct iovec parts[] = {{&entry, sizeof entry},
                          {(void *)path, entry.path},
                          {(void *)other, entry.other},
                          {(void *)bytes, size}};
  ssize_t whole = sizeof entry + entry.path + entry.other + size;
  if (REAL(ssize_t, writev, int, const struct iovec *, int)(log_file, parts, 4) != whole) abort();
}

static const char *below(int folder, const char *path, char *place) {
  char from[4096] = "";
  if (!root || log_file < 0 || !path) return NULL;
  if (path[0] != '/') {
    if (folder == AT_FDCWD) {
      if (!getcwd(from, sizeof from)) return NULL;
    } else {
      char link[64];
      snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
      ssize_t size = readlink(link, from, sizeof from - 1);
      if (size < 0) return NULL;
      from[size] = 0;
    }
    strcat(from, "/");
  }
  if (strlen(from) + strlen(path) > 4000) return NULL;
  strcat(strcpy(place, from), path);
  size_t size = strlen(place);
  if (strncmp(place, root, strlen(root)) || place[strlen(root)] != '/') {
    return strcmp(place, root) ? NULL : place;
  }
  /* SQLite's shared memory means nothing after a power cut. */
  if (size > 4 && !strcmp(place + size - 4, "-shm")) return NULL;
  return place;
}

static uint64_t inode_of(int file) {
  struct stat found;
  return fstat(file, &found) ? 0 : found.st_ino;
}

static int is_held(int file) { return file >= 0 && file < DESCRIPTORS && held[file]; }

static void opened(int file, const char *place, int was_there, int truncated, char how) {
  if (file < 0 || file >= DESCRIPTORS) return;
  held[file] = how;
  if (!was_there) note('c', inode_of(file), 0, place, NULL, NULL, 0);
  else if (truncated) note('t', inode_of(file), 0, NULL, NULL, NULL, 0);
}

static int open_noted(const char *name, int folder, const char *path, int flags, mode_t mode) {
  char place[8192];
  const char *found = below(folder, path, place);
  int (*really)(int, const char *, int, ...) = (int (*)(int, const char *, int, ...))real(name);
  if (!found) return really(folder, path, flags, mode);
  lock();
  int was_there = !(flags & O_CREAT) || !REAL(int, access, const char *, int)(found, F_OK);
  int file = really(folder, path, flags, mode);
  int error = errno;
  opened(file, found, was_there, flags & O_TRUNC, PLAIN);
  unlock();
  errno = error;
  return file;
}

#define OPEN(name, at)                                                      \
  int name(const char *path, int flags, ...) {                              \
    va_list more;                                                           \
    va_start(more, flags);                                                  \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
    va_end(more);                                                           \
    return open_noted(at, AT_FDCWD, path, flags, mode);                     \
  }
#define OPENAT(name)                                                        \
  int name(int folder, const char *path, int flags, ...) {                  \
    va_list more;                                                           \
    va_start(more, flags);                                                  \
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(more, mode_t) : 0; \
    va_end(more);                                                           \
    return open_noted(#name, folder, path, flags, mode);                    \
  }
OPEN(open, "openat")
OPEN(open64, "openat64")
OPENAT(openat)
OPENAT(openat64)

#define FOPEN(name)                                                                   \
  FILE *name(const char *path, const char *mode) {                                    \
    char place[8192];                                                                 \
    const char *found = below(AT_FDCWD, path, place);                                 \
    if (!found || mode[0] == 'r') return REAL(FILE *, name, const char *, const char *)(path, mode); \
    lock();                                                                           \
    int was_there = !REAL(int, access, const char *, int)(found, F_OK);               \
    FILE *file = REAL(FILE *, name, const char *, const char *)(path, mode);          \
    if (file) opened(fileno(file), found, was_there, mode[0] == 'w', BUFFERED);       \
    unlock();                                                                         \
    return file;                                                                      \
  }
FOPEN(fopen)
FOPEN(fopen64)

/* What the C library buffers it writes by itself; it is read back when it has to be there. */
static void note_buffered(int file) {
  struct stat found;
  if (fstat(file, &found) || !found.st_size) return;
  char link[64];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  int again = REAL(int, openat, int, const char *, int, ...)(AT_FDCWD, link, O_RDONLY);
  char *bytes = malloc(found.st_size);
  if (again < 0 || !bytes) abort();
  if (REAL(ssize_t, pread, int, void *, size_t, off_t)(again, bytes, found.st_size, 0) !=
      found.st_size)
    abort();
  note('w', found.st_ino, 0, NULL, NULL, bytes, found.st_size);
  REAL(int, close, int)(again);
  free(bytes);
}

int fclose(FILE *file) {
  int number = fileno(file);
  if (is_held(number)) {
    lock();
    fflush(file);
    if (held[number] == BUFFERED) note_buffered(number);
    held[number] = OTHER;
    unlock();
  }
  return REAL(int, fclose, FILE *)(file);
}

int close(int file) {
  if (file == log_file) return 0;
  if (is_held(file)) held[file] = OTHER;
  return REAL(int, close, int)(file);
}

static uint64_t place_of(int file) {
  int flags = fcntl(file, F_GETFL);
  return flags & O_APPEND ? lseek(file, 0, SEEK_END) : lseek(file, 0, SEEK_CUR);
}

ssize_t write(int file, const void *bytes, size_t size) {
  if (!is_held(file)) return REAL(ssize_t, write, int, const void *, size_t)(file, bytes, size);
  lock();
  uint64_t offset = place_of(file);
  ssize_t written = REAL(ssize_t, write, int, const void *, size_t)(file, bytes, size);
  int error = errno;
  if (written > 0) note('w', inode_of(file), offset, NULL, NULL, bytes, written);
  unlock();
  errno = error;
  return written;
}

ssize_t writev(int file, const struct iovec *parts, int count) {
  if (!is_held(file))
    return REAL(ssize_t, writev, int, const struct iovec *, int)(file, parts, count);
  ssize_t whole = 0;
  for (int number = 0; number < count; number++) {
    ssize_t written = write(file, parts[number].iov_base, parts[number].iov_len);
    if (written < 0) return whole ? whole : written;
    whole += written;
    if ((size_t)written < parts[number].iov_len) break;
  }
  return whole;
}

#define PWRITE(name, offset_type)                                                              \
  ssize_t name(int file, const void *bytes, size_t size, offset_type offset) {                 \
    if (!is_held(file))                                                                        \
      return REAL(ssize_t, name, int, const void *, size_t, offset_type)(file, bytes, size, offset); \
    lock();                                                                                    \
    ssize_t written =                                                                          \
        REAL(ssize_t, name, int, const void *, size_t, offset_type)(file, bytes, size, offset); \
    int error = errno;                                                                         \
    if (written > 0) note('w', inode_of(file), offset, NULL, NULL, bytes, written);            \
    unlock();                                                                                  \
    errno = error;                                                                             \
    return written;                                                                            \
  }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

static int sync_noted(const char *name, int file) {
  if (!is_held(file)) return ((int (*)(int))real(name))(file);
  lock();
  if (held[file] == BUFFERED) note_buffered(file);
  note('s', inode_of(file), 0, NULL, NULL, NULL, 0);
  unlock();
  return 0;
}
int fsync(int file) { return sync_noted("fsync", file); }
int fdatasync(int file) { return sync_noted("fdatasync", file); }

/* Of all files and folders; what is noted of one that is held elsewhere is on the disk by then. */
int syncfs(int file) {
  if (!is_held(file)) return REAL(int, syncfs, int)(file);
  lock();
  for (int other = 0; other < DESCRIPTORS; other++)
    if (held[other] == BUFFERED) note_buffered(other);
  note('S', 0, 0, NULL, NULL, NULL, 0);
  unlock();
  return 0;
}

/* Starts to write and promises nothing. */
int sync_file_range(int file, off64_t offset, off64_t size, unsigned int flags) {
  if (is_held(file)) return 0;
  return REAL(int, sync_file_range, int, off64_t, off64_t, unsigned int)(file, offset, size, flags);
}

#define TRUNCATE(name, offset_type)                                         \
  int name(int file, offset_type size) {                                    \
    if (!is_held(file)) return REAL(int, name, int, offset_type)(file, size); \
    lock();                                                                 \
    int result = REAL(int, name, int, offset_type)(file, size);             \
    if (!result) note('t', inode_of(file), size, NULL, NULL, NULL, 0);      \
    unlock();                                                               \
    return result;                                                          \
  }
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)

/* Space that is allocated beyond a file's end reads as zeros, and nothing before it changes. */
static int allocated(int file, int result, off64_t end) {
  int error = errno;
  struct stat found;
  if (!result && !fstat(file, &found))
    note('f', found.st_ino, (uint64_t)end, NULL, NULL, NULL, 0);
  unlock();
  errno = error;
  return result;
}

#define ALLOCATE(name, offset_type)                                              \
  int name(int file, offset_type from, offset_type size) {                       \
    if (!is_held(file)) return REAL(int, name, int, offset_type, offset_type)(file, from, size); \
    lock();                                                                      \
    int result = REAL(int, name, int, offset_type, offset_type)(file, from, size); \
    return allocated(file, result, (off64_t)from + size);                        \
  }
ALLOCATE(posix_fallocate, off_t)
ALLOCATE(posix_fallocate64, off64_t)

/* A hole reads as zeros: it is told as a write of them, up to the file's end. */
static void punched(int file, int result, off64_t from, off64_t size) {
  int error = errno;
  struct stat found;
  if (!result && !fstat(file, &found) && from < found.st_size) {
    size_t written = from + size < found.st_size ? (size_t)size : (size_t)(found.st_size - from);
    void *zeros = calloc(1, written);
    if (!zeros) abort();
    note('w', found.st_ino, (uint64_t)from, NULL, NULL, zeros, written);
    free(zeros);
  }
  errno = error;
}

#define HOLE 3
/* Another mode, such as one that keeps the size, is not told. */
#define FALLOCATE(name, offset_type)                                             \
  int name(int file, int mode, offset_type from, offset_type size) {             \
    if (!is_held(file))                                                          \
      return REAL(int, name, int, int, offset_type, offset_type)(file, mode, from, size); \
    lock();                                                                      \
    if (mode && mode != HOLE) note('x', 0, 0, #name, NULL, NULL, 0);             \
    int result = REAL(int, name, int, int, offset_type, offset_type)(file, mode, from, size); \
    if (mode == HOLE) {                                                          \
      punched(file, result, (off64_t)from, (off64_t)size);                       \
      unlock();                                                                  \
      return result;                                                             \
    }                                                                            \
    return allocated(file, result, (off64_t)from + size);                        \
  }
FALLOCATE(fallocate, off_t)
FALLOCATE(fallocate64, off64_t)

/* What the log could not tell is said there, so that nobody believes the rest. */
#define UNTOLD(type, name, parameters, file, ...)                 \
  type name parameters {                                          \
    if (is_held(file)) note('x', 0, 0, #name, NULL, NULL, 0);     \
    return ((type(*) parameters)real(#name))(__VA_ARGS__);        \
  }
UNTOLD(ssize_t, sendfile, (int to, int from, off_t *offset, size_t size), to, to, from, offset, size)
UNTOLD(ssize_t, sendfile64, (int to, int from, off64_t *offset, size_t size), to, to, from, offset, size)
UNTOLD(ssize_t, copy_file_range,
       (int from, off64_t *offset, int to, off64_t *at, size_t size, unsigned int flags), to, from,
       offset, to, at, size, flags)
UNTOLD(ssize_t, pwritev, (int file, const struct iovec *parts, int count, off_t offset), file, file, parts, count, offset)

static int changed(char kind, int result, const char *path, const char *other, uint64_t inode) {
  int error = errno;
  if (!result && path) note(kind, inode, 0, path, other, NULL, 0);
  unlock();
  errno = error;
  return result;
}

#define TWO(kind, name, parameters, first, path, second, other, ...)  \
  int name parameters {                                               \
    char place[8192], place_too[8192];                                \
    const char *found = below(first, path, place);                    \
    const char *found_too = below(second, other, place_too);          \
    lock();                                                           \
    int result = ((int (*) parameters)real(#name))(__VA_ARGS__);      \
    return changed(kind, result, found ? found : found_too, found && found_too ? found_too : "", 0); \
  }
TWO('r', rename, (const char *path, const char *other), AT_FDCWD, path, AT_FDCWD, other, path, other)
TWO('r', renameat, (int from, const char *path, int to, const char *other), from, path, to, other,
    from, path, to, other)
TWO('l', link, (const char *path, const char *other), AT_FDCWD, path, AT_FDCWD, other, path, other)
TWO('l', linkat, (int from, const char *path, int to, const char *other, int flags), from, path, to,
    other, from, path, to, other, flags)

#define ONE(kind, name, parameters, folder, path, ...)                \
  int name parameters {                                               \
    char place[8192];                                                 \
    const char *found = below(folder, path, place);                   \
    if (!found) return ((int (*) parameters)real(#name))(__VA_ARGS__); \
    lock();                                                           \
    int result = ((int (*) parameters)real(#name))(__VA_ARGS__);      \
    return changed(kind, result, found, NULL, 0);                     \
  }
ONE('u', unlink, (const char *path), AT_FDCWD, path, path)
ONE('u', unlinkat, (int folder, const char *path, int flags), folder, path, folder, path, flags)
ONE('u', rmdir, (const char *path), AT_FDCWD, path, path)

static int folder_made(int result, const char *place) {
  struct stat found;
  int error = errno;
  uint64_t inode = !result && !stat(place, &found) ? found.st_ino : 0;
  errno = error;
  return changed('d', result, place, NULL, inode);
}

int mkdir(const char *path, mode_t mode) {
  char place[8192];
  const char *found = below(AT_FDCWD, path, place);
  if (!found) return REAL(int, mkdir, const char *, mode_t)(path, mode);
  lock();
  return folder_made(REAL(int, mkdir, const char *, mode_t)(path, mode), found);
}

int mkdirat(int folder, const char *path, mode_t mode) {
  char place[8192];
  const char *found = below(folder, path, place);
  if (!found) return REAL(int, mkdirat, int, const char *, mode_t)(folder, path, mode);
  lock();
  return folder_made(REAL(int, mkdirat, int, const char *, mode_t)(folder, path, mode), found);
}
