/* Preloaded into a process, catches the file operations that Python, TensorStore and others ask the C library for.

shim_arm() chooses what happens at the k-th operation that changes something below a folder:
  kill       the process is killed before it
  torn       the same, but a write has written its first half by then
  fail       it fails with an errno; other operations do not
  fail from  it and all later ones fail
  record     nothing
Operations that cannot fail with that errno succeed. Each one that has succeeded gets a line in the log, with tabs:
its number, its kind, an inode, and its paths. A line of output gets one of the kind `told`. When recording, a copy of
each regular file is kept at its fsync, as <log>.<number>.

One lock is held during an operation, so that the log has the order in which they happened. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static struct {
  int armed, log, error;
  char mode;              /* k, t, f, F or r */
  long at, count;
  char root[PATH_MAX], log_path[PATH_MAX];
} shim;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

enum { WRITES = 1, MAKES = 2, REMOVES = 4, OPENS = 8, FLUSHES = 16 };  /* What an operation may fail with depends on it. */

void shim_arm(const char *mode, long at, int error, const char *root, const char *log) {
  shim.mode = strcmp(mode, "fail from") ? mode[0] : 'F';
  shim.at = at;
  shim.error = error;
  snprintf(shim.root, sizeof shim.root, "%s", root);
  snprintf(shim.log_path, sizeof shim.log_path, "%s", log);
  int fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND, 0600);
  shim.log = fcntl(fd, F_DUPFD_CLOEXEC, 1000);
  if (shim.log < 0) shim.log = fcntl(fd, F_DUPFD_CLOEXEC, 10);
  close(fd);
  shim.armed = 1;
}

/* The absolute path of a name in a directory, or of a descriptor if there is no name; whether it is below the root. */
static int find(char *path, int directory, const char *name) {
  char link[64];
  size_t length = 0;
  path[0] = 0;
  if (!name || name[0] != '/') {
    if (name && directory == AT_FDCWD) {
      if (!getcwd(path, PATH_MAX)) return 0;
      length = strlen(path);
    } else {
      snprintf(link, sizeof link, "/proc/self/fd/%d", directory);
      ssize_t size = readlink(link, path, PATH_MAX - 1);
      if (size < 0) return 0;
      path[length = size] = 0;
    }
  }
  if (name) snprintf(path + length, PATH_MAX - length, "%s%s", length ? "/" : "", name);
  size_t root = strlen(shim.root);
  return !strncmp(path, shim.root, root) && (path[root] == '/' || !path[root]);
}

static int can_fail(int group) {
  switch (shim.error) {
    case EIO: return 1;
    case ENOSPC: case EDQUOT: return group & (WRITES | MAKES | FLUSHES);
    case EACCES: case EPERM: case EROFS: return group & (MAKES | REMOVES | OPENS);
    default: return 1;
  }
}

static void die(void) {
  kill(getpid(), SIGKILL);
  for (;;) pause();
}

/* Counts an operation; whether it is to fail. The caller holds the lock. */
static int begin(int group) {
  shim.count++;
  if (shim.count == shim.at && (shim.mode == 'k' || (shim.mode == 't' && group != WRITES))) die();
  if ((shim.mode == 'f' && shim.count == shim.at) || (shim.mode == 'F' && shim.count >= shim.at))
    if (can_fail(group)) {
      errno = shim.error;
      return 1;
    }
  return 0;
}

static void keep(int fd, const char *path) {
  char name[PATH_MAX + 32], block[65536];
  snprintf(name, sizeof name, "%s.%ld", shim.log_path, shim.count);
  int from = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY), to = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT, 0600);
  for (ssize_t size; (size = syscall(SYS_read, from, block, sizeof block)) > 0;) syscall(SYS_write, to, block, size);
  syscall(SYS_close, from);
  syscall(SYS_close, to);
}

static void note(const char *kind, unsigned long inode, const char *one, const char *other) {
  char line[3 * PATH_MAX];
  int size = snprintf(line, sizeof line, "%ld\t%s\t%lu\t%s%s%s\n", shim.count, kind, inode, one, other ? "\t" : "", other ? other : "");
  syscall(SYS_write, shim.log, line, size);
}

static unsigned long inode_of(int directory, const char *name, int fd) {
  struct stat found;
  int failed = name ? fstatat(directory, name, &found, AT_SYMLINK_NOFOLLOW) : fstat(fd, &found);
  return failed ? 0 : found.st_ino;
}

#define NEXT(name) \
  static __typeof__(&name) next; \
  if (!next) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* An operation on one or two names: a call of the C library's own function, if it is armed and below the root. */
#define GUARD(group, kind, directory, name, to_directory, to_name, call) \
  do { \
    char one[PATH_MAX], other[PATH_MAX]; \
    if (!shim.armed) return call; \
    pthread_mutex_lock(&lock); \
    int below = find(one, directory, name); \
    if (to_name) below |= find(other, to_directory, to_name); \
    int result = -1; \
    if (!below) { \
      result = call; \
    } else if (!begin(group)) { \
      result = call; \
      if (!result) note(kind, to_name ? inode_of(to_directory, to_name, 0) : inode_of(directory, name, 0), one, to_name ? other : NULL); \
    } \
    int error = errno; \
    pthread_mutex_unlock(&lock); \
    errno = error; \
    return result; \
  } while (0)

#define GUARD_ONE(group, kind, directory, name, call) GUARD(group, kind, directory, name, AT_FDCWD, (const char *)NULL, call)

int rename(const char *from, const char *to) {
  NEXT(rename);
  GUARD(MAKES, "rename", AT_FDCWD, from, AT_FDCWD, to, next(from, to));
}

int renameat(int from_directory, const char *from, int to_directory, const char *to) {
  NEXT(renameat);
  GUARD(MAKES, "rename", from_directory, from, to_directory, to, next(from_directory, from, to_directory, to));
}

int renameat2(int from_directory, const char *from, int to_directory, const char *to, unsigned flags) {
  NEXT(renameat2);
  GUARD(MAKES, "rename", from_directory, from, to_directory, to, next(from_directory, from, to_directory, to, flags));
}

int unlink(const char *path) {
  NEXT(unlink);
  GUARD_ONE(REMOVES, "unlink", AT_FDCWD, path, next(path));
}

int unlinkat(int directory, const char *path, int flags) {
  NEXT(unlinkat);
  GUARD_ONE(REMOVES, flags & AT_REMOVEDIR ? "rmdir" : "unlink", directory, path, next(directory, path, flags));
}

int rmdir(const char *path) {
  NEXT(rmdir);
  GUARD_ONE(REMOVES, "rmdir", AT_FDCWD, path, next(path));
}

int mkdir(const char *path, mode_t mode) {
  NEXT(mkdir);
  GUARD_ONE(MAKES, "mkdir", AT_FDCWD, path, next(path, mode));
}

int mkdirat(int directory, const char *path, mode_t mode) {
  NEXT(mkdirat);
  GUARD_ONE(MAKES, "mkdir", directory, path, next(directory, path, mode));
}

int link(const char *from, const char *to) {
  NEXT(link);
  GUARD(MAKES, "link", AT_FDCWD, from, AT_FDCWD, to, next(from, to));
}

int linkat(int from_directory, const char *from, int to_directory, const char *to, int flags) {
  NEXT(linkat);
  GUARD(MAKES, "link", from_directory, from, to_directory, to, next(from_directory, from, to_directory, to, flags));
}

int symlink(const char *target, const char *path) {
  NEXT(symlink);
  GUARD_ONE(MAKES, "symlink", AT_FDCWD, path, next(target, path));
}

int symlinkat(const char *target, int directory, const char *path) {
  NEXT(symlinkat);
  GUARD_ONE(MAKES, "symlink", directory, path, next(target, directory, path));
}

/* Opening a file that is made or may be written to. */
static int opened(int directory, const char *path, int flags, mode_t mode) {
  char one[PATH_MAX];
  int writing = flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR);
  if (!shim.armed || !writing || (flags & O_TMPFILE) == O_TMPFILE) return syscall(SYS_openat, directory, path, flags, mode);
  pthread_mutex_lock(&lock);
  int result = -1;
  if (!find(one, directory, path)) {
    result = syscall(SYS_openat, directory, path, flags, mode);
  } else {
    int made = faccessat(directory, path, F_OK, AT_SYMLINK_NOFOLLOW) != 0;
    if (!begin(made ? MAKES : OPENS)) {
      result = syscall(SYS_openat, directory, path, flags, mode);
      if (result >= 0) note(made ? "create" : flags & O_TRUNC ? "truncate" : "open", inode_of(0, NULL, result), one, NULL);
    }
  }
  int error = errno;
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

#define OPEN(name, parameters, directory, path) \
  int name parameters { \
    mode_t mode = 0; \
    if (flags & (O_CREAT | __O_TMPFILE)) { \
      va_list rest; \
      va_start(rest, flags); \
      mode = va_arg(rest, mode_t); \
      va_end(rest); \
    } \
    return opened(directory, path, flags, mode); \
  }
OPEN(open, (const char *path, int flags, ...), AT_FDCWD, path)
OPEN(open64, (const char *path, int flags, ...), AT_FDCWD, path)
OPEN(openat, (int directory, const char *path, int flags, ...), directory, path)
OPEN(openat64, (int directory, const char *path, int flags, ...), directory, path)

int creat(const char *path, mode_t mode) { return opened(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

static void told(const void *data, size_t size) {
  char text[512];
  size = size < sizeof text - 1 ? size : sizeof text - 1;
  memcpy(text, data, size);
  text[size] = 0;
  for (char *at = text; *at; at++)
    if (*at == '\n' || *at == '\t') *at = ' ';
  note("told", 0, text, NULL);
}

/* A write, at an offset unless that is -1; `half` of it, as a torn one is. */
static ssize_t written(int fd, const struct iovec *parts, int count, off_t offset) {
  char one[PATH_MAX];
  ssize_t result = -1;
#define WRITE(parts, count) (offset < 0 ? syscall(SYS_writev, fd, parts, count) : syscall(SYS_pwritev, fd, parts, count, offset, 0))
  if (!shim.armed) return WRITE(parts, count);
  pthread_mutex_lock(&lock);
  if (!find(one, fd, NULL)) {
    result = WRITE(parts, count);
    if (fd == 1 && result > 0) told(parts[0].iov_base, parts[0].iov_len);
  } else if (!begin(WRITES)) {
    if (shim.mode == 't' && shim.count == shim.at) {
      struct iovec half = parts[count - 1];
      half.iov_len /= 2;
      if (count > 1) WRITE(parts, count - 1);
      else WRITE(&half, 1);
      die();
    }
    result = WRITE(parts, count);
    if (result >= 0) note("write", inode_of(0, NULL, fd), one, NULL);
  }
  int error = errno;
  pthread_mutex_unlock(&lock);
  errno = error;
  return result;
}

#define ONE(data, size) &(struct iovec){(void *)data, size}, 1
ssize_t write(int fd, const void *data, size_t size) { return written(fd, ONE(data, size), -1); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) { return written(fd, ONE(data, size), offset); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) { return written(fd, ONE(data, size), offset); }
ssize_t writev(int fd, const struct iovec *parts, int count) { return written(fd, parts, count, -1); }
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) { return written(fd, parts, count, offset); }
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t offset) { return written(fd, parts, count, offset); }

/* An operation on a descriptor. */
#define GUARD_FD(group, kind, fd, call, afterwards) \
  do { \
    char one[PATH_MAX]; \
    if (!shim.armed) return call; \
    pthread_mutex_lock(&lock); \
    int result = -1; \
    if (!find(one, fd, NULL)) { \
      result = call; \
    } else if (!begin(group)) { \
      result = call; \
      if (!result) { \
        afterwards; \
        note(kind, inode_of(0, NULL, fd), one, NULL); \
      } \
    } \
    int error = errno; \
    pthread_mutex_unlock(&lock); \
    errno = error; \
    return result; \
  } while (0)

static void keep_if_file(int fd) {
  char path[64];
  struct stat found;
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  if (shim.mode == 'r' && !fstat(fd, &found) && S_ISREG(found.st_mode)) keep(fd, path);
}

int fsync(int fd) {
  NEXT(fsync);
  GUARD_FD(FLUSHES, "fsync", fd, next(fd), keep_if_file(fd));
}

int fdatasync(int fd) {
  NEXT(fdatasync);
  GUARD_FD(FLUSHES, "fsync", fd, next(fd), keep_if_file(fd));
}

int ftruncate(int fd, off_t size) {
  NEXT(ftruncate);
  GUARD_FD(WRITES, "truncate", fd, next(fd, size), );
}

int ftruncate64(int fd, off64_t size) {
  NEXT(ftruncate64);
  GUARD_FD(WRITES, "truncate", fd, next(fd, size), );
}
