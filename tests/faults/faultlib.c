/* A library to be preloaded: it fails, tears or records the calls by which a process changes files below one directory.

   Build: cc -shared -fPIC -O2 -o faultlib.so faultlib.c -ldl -lpthread. Use: LD_PRELOAD=/path/faultlib.so.

   Calls seen: write, pwrite, writev, pwritev, fsync, fdatasync, ftruncate, truncate, rename, link, unlink, mkdir, rmdir
   (and their "at" and "64" forms), and an open that creates or empties a file. Not seen: stdio, memory maps, sendfile.
   A descriptor is known by /proc/self/fd, so it does not matter when it was opened, or whether it was duplicated.

   Each call below the directory (the directory itself counts too) has a number, from 1, and a letter:
     w write, s fsync, c create, t truncate, r rename, l link, u unlink, m mkdir, d rmdir

   In the process, through ctypes:
     int fault_arm(const char *dir, long n, int kind)   fault at the n-th call from now on; n = 0 only counts
     void fault_disarm(void)                            no more counting and no more faults; recording goes on
     long fault_count(void)                             how many calls there were since fault_arm
     const char *fault_trace(void)                      the letters of (the first 65,535 of) them
     long fault_fired(void)                             how many calls got the fault
     int fault_record(const char *dir, const char *log) append to the log; NULL, NULL ends it
     void fault_mark(const char *text)                  put a mark between the records
   For a whole process, by its environment: FAULT_DIR, FAULT_AT (n), FAULT_KIND (number), FAULT_LOG.
   Arming and recording at once is for one directory: the last one named counts for both.

   Kinds:
      1 kill before the call                6 EIO, once
      2 kill after the call                 7 ENOSPC from the n-th call on, until disarmed
      3 write the first half, then kill     8 EIO from the n-th call on, until disarmed
      4 write all but the last of its       9 short: write the first half, and return that
        512-byte sectors, then kill        10 short, and from the next call on ENOSPC
      5 ENOSPC, once
   ENOSPC never strikes an unlink or rmdir, 3, 4, 9 and 10 only writes: another call at the n-th place stays whole (10:
   what comes after it fails all the same).

   The log is a sequence of records, little-endian, without padding:
     u32 kind, u32 path_len, u32 path2_len, u64 offset, u64 data_len, then path, path2, data
   Paths are relative to the directory, "" is the directory itself. Kinds:
      1 create(path)                        7 unlink(path)
      2 write(path, offset, data)           8 mkdir(path)
      3 truncate(path, length in offset)    9 rmdir(path)
      4 fsync(path)                        10 mark(data)
      5 fsync of a directory(path)         11 link(path, path2)
      6 rename(path, path2)
   Only what succeeded is recorded (of a short write, what was written), and nothing of a "-shm" file: SQLite's index
   of the log is mapped into memory and made anew by whoever opens the database first. Faults do strike it. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { KILL_BEFORE = 1, KILL_AFTER, TEAR_HALF, TEAR_SECTOR, NOSPACE, IOERROR, FULL, BROKEN, SHORT, SHORT_FULL };
enum { CREATE = 1, WRITE, TRUNCATE, FSYNC, FSYNC_DIRECTORY, RENAME, UNLINK, MKDIR, RMDIR, MARK, LINK };
enum action { GO, REFUSE, TEAR, THEN_DIE };

#define TRACE 65536
#define REAL(name, result, ...)                                         \
    static result (*real)(__VA_ARGS__);                                 \
    if (!real) real = (result(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER; /* the order of the calls is the order of the records */
static char root[PATH_MAX];                              /* the directory, canonical; "" where nothing is watched */
static size_t root_len;
static int armed, recording = -1;
static int fault;
static long at, count, fired;
static char trace[TRACE];

/* --- the calls as they are --- */

static ssize_t raw_write(int fd, const void *data, size_t len, off_t offset) {
    if (offset >= 0) {
        REAL("pwrite64", ssize_t, int, const void *, size_t, off_t);
        return real(fd, data, len, offset);
    }
    REAL("write", ssize_t, int, const void *, size_t);
    return real(fd, data, len);
}

static int raw_open(int dirfd, const char *path, int flags, mode_t mode) {
    REAL("openat64", int, int, const char *, int, ...);
    return real(dirfd, path, flags, mode);
}

/* --- what is watched --- */

static const char *below(const char *whole) {
    if (!root_len || strncmp(whole, root, root_len)) return NULL;
    if (!whole[root_len]) return "";
    return whole[root_len] == '/' ? whole + root_len + 1 : NULL;
}

static ssize_t descriptor_path(int fd, char *whole) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, whole, PATH_MAX - 1);
    whole[len < 0 ? 0 : len] = 0;
    return len;
}

/* Return the path of a descriptor below the directory, or NULL. What has been unlinked has none. */
static const char *watched_fd(int fd, char *whole) {
    static const char gone[] = " (deleted)";
    if (!root_len) return NULL;
    int before = errno;
    ssize_t len = descriptor_path(fd, whole), tail = sizeof gone - 1;
    errno = before;
    if (len < 0 || (len > tail && !strcmp(whole + len - tail, gone))) return NULL;
    return below(whole);
}

/* Return a path below the directory, or NULL; the last part of it need not exist and is not followed. */
static const char *watched_path(int dirfd, const char *path, char *whole) {
    char given[2 * PATH_MAX], parent[PATH_MAX];
    const char *found = NULL;
    int before = errno;
    if (!root_len || !path || strlen(path) >= PATH_MAX) return NULL;
    if (path[0] == '/') {
        strcpy(given, path);
    } else {
        char base[PATH_MAX];
        if (dirfd == AT_FDCWD ? !getcwd(base, sizeof base) : descriptor_path(dirfd, base) < 0) goto out;
        snprintf(given, sizeof given, "%s/%s", base, path);
    }
    for (size_t len = strlen(given); len > 1 && given[len - 1] == '/';) given[--len] = 0;
    char *slash = strrchr(given, '/');
    *slash = 0;
    if (!realpath(*given ? given : "/", parent)) goto out;
    if ((size_t)snprintf(whole, PATH_MAX, "%s/%s", strcmp(parent, "/") ? parent : "", slash + 1) >= PATH_MAX) goto out;
    found = below(whole);
out:
    errno = before;
    return found;
}

/* --- what is done to them --- */

static __attribute__((noreturn)) void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static int strikes(char letter) {
    if (fault == NOSPACE || fault == FULL || fault == SHORT_FULL) return letter != 'u' && letter != 'd';
    if (fault == TEAR_HALF || fault == TEAR_SECTOR || fault == SHORT) return letter == 'w';
    return 1;
}

/* Number a call and say what is to become of it; sets errno where it is refused. */
static enum action gate(char letter) {
    if (!armed) return GO;
    if (count < TRACE - 1) trace[count] = letter;
    count++;
    if (!at || count < at || !strikes(letter)) return GO;
    int later = count > at;
    if (later && fault != FULL && fault != BROKEN && fault != SHORT_FULL) return GO;
    if (fault == SHORT_FULL && !later && letter != 'w') return GO;
    fired++;
    switch (fault) {
    case KILL_BEFORE:
        die();
    case KILL_AFTER:
        return THEN_DIE;
    case TEAR_HALF:
    case TEAR_SECTOR:
    case SHORT:
        return TEAR;
    case SHORT_FULL:
        if (!later) return TEAR;
        errno = ENOSPC;
        return REFUSE;
    case NOSPACE:
    case FULL:
        errno = ENOSPC;
        return REFUSE;
    case IOERROR:
    case BROKEN:
        errno = EIO;
        return REFUSE;
    }
    return GO;
}

static void record(uint32_t kind, const char *path, const char *path2, uint64_t offset, const void *data, uint64_t len) {
    size_t tail = strlen(path);
    if (recording < 0 || (tail >= 4 && !strcmp(path + tail - 4, "-shm"))) return;
    struct __attribute__((packed)) {
        uint32_t kind, path_len, path2_len;
        uint64_t offset, data_len;
    } header = {kind, (uint32_t)tail, (uint32_t)strlen(path2), offset, len};
    struct iovec parts[] = {
        {&header, sizeof header}, {(void *)path, tail}, {(void *)path2, strlen(path2)}, {(void *)data, len}};
    REAL("writev", ssize_t, int, const struct iovec *, int);
    int before = errno;
    if (real(recording, parts, 4) != (ssize_t)(sizeof header + tail + strlen(path2) + len)) {
        static const char text[] = "faultlib: the log cannot be written\n";
        raw_write(2, text, sizeof text - 1, -1);
        _exit(99);
    }
    errno = before;
}

/* Do a call that gives 0 or -1, between its fault and its record. */
#define CHANGE(letter, call, kind, path, path2, offset)                 \
    do {                                                                \
        pthread_mutex_lock(&turn);                                      \
        enum action action = gate(letter);                              \
        int result = action == REFUSE ? -1 : (call);                    \
        if (!result) record(kind, path, path2, offset, "", 0);          \
        if (action == THEN_DIE) die();                                  \
        pthread_mutex_unlock(&turn);                                    \
        return result;                                                  \
    } while (0)

static ssize_t put(int fd, const void *data, size_t len, off_t offset) {
    char whole[PATH_MAX];
    const char *path = watched_fd(fd, whole);
    if (!path) return raw_write(fd, data, len, offset);
    pthread_mutex_lock(&turn);
    off_t place = offset >= 0 ? offset : lseek(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    enum action action = gate('w');
    if (action == TEAR) len = fault == TEAR_SECTOR ? (len ? (len - 1) / 512 * 512 : 0) : (len + (fault >= SHORT)) / 2;
    ssize_t result = action == REFUSE ? -1 : raw_write(fd, data, len, offset);
    if (action == THEN_DIE || (action == TEAR && (fault == TEAR_HALF || fault == TEAR_SECTOR))) die();
    if (result > 0) record(WRITE, path, "", (uint64_t)place, data, (uint64_t)result);
    pthread_mutex_unlock(&turn);
    return result;
}

static ssize_t put_all(int fd, const struct iovec *parts, int number, off_t offset) {
    size_t len = 0, done = 0;
    for (int i = 0; i < number; i++) len += parts[i].iov_len;
    char *data = malloc(len ? len : 1);
    for (int i = 0; i < number; done += parts[i++].iov_len) memcpy(data + done, parts[i].iov_base, parts[i].iov_len);
    ssize_t result = put(fd, data, len, offset);
    int before = errno;
    free(data);
    errno = before;
    return result;
}

static int open_any(int dirfd, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    struct stat found;
    const char *inside = flags & (O_CREAT | O_TRUNC) ? watched_path(dirfd, path, whole) : NULL;
    if (!inside) return raw_open(dirfd, path, flags, mode);
    int before = errno;
    int fresh = fstatat(dirfd, path, &found, 0) < 0;
    errno = before;
    if (fresh ? !(flags & O_CREAT) : !(flags & O_TRUNC) || (flags & O_EXCL)) return raw_open(dirfd, path, flags, mode);
    pthread_mutex_lock(&turn);
    enum action action = gate(fresh ? 'c' : 't');
    int result = action == REFUSE ? -1 : raw_open(dirfd, path, flags, mode);
    if (result >= 0) record(fresh ? CREATE : TRUNCATE, inside, "", 0, "", 0);
    if (action == THEN_DIE) die();
    pthread_mutex_unlock(&turn);
    return result;
}

/* --- the calls that are taken over --- */

#define MODE(flags)                                                     \
    mode_t mode = 0;                                                    \
    if (flags & (O_CREAT | __O_TMPFILE)) {                              \
        va_list rest;                                                   \
        va_start(rest, flags);                                          \
        mode = va_arg(rest, mode_t);                                    \
        va_end(rest);                                                   \
    }

int open(const char *path, int flags, ...) { MODE(flags); return open_any(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags); return open_any(AT_FDCWD, path, flags | O_LARGEFILE, mode); }
int openat(int dirfd, const char *path, int flags, ...) { MODE(flags); return open_any(dirfd, path, flags, mode); }
int openat64(int dirfd, const char *path, int flags, ...) { MODE(flags); return open_any(dirfd, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }

ssize_t write(int fd, const void *data, size_t len) { return put(fd, data, len, -1); }
ssize_t pwrite(int fd, const void *data, size_t len, off_t offset) { return put(fd, data, len, offset); }
ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset) { return put(fd, data, len, offset); }
ssize_t writev(int fd, const struct iovec *parts, int number) { return put_all(fd, parts, number, -1); }
ssize_t pwritev(int fd, const struct iovec *parts, int number, off_t offset) { return put_all(fd, parts, number, offset); }
ssize_t pwritev64(int fd, const struct iovec *parts, int number, off64_t offset) {
    return put_all(fd, parts, number, offset);
}

static int force(int fd, int (*real)(int)) {
    char whole[PATH_MAX];
    struct stat found;
    const char *path = watched_fd(fd, whole);
    if (!path) return real(fd);
    uint32_t kind = !fstat(fd, &found) && S_ISDIR(found.st_mode) ? FSYNC_DIRECTORY : FSYNC;
    CHANGE('s', real(fd), kind, path, "", 0);
}

int fsync(int fd) { REAL("fsync", int, int); return force(fd, real); }
int fdatasync(int fd) { REAL("fdatasync", int, int); return force(fd, real); }

int ftruncate64(int fd, off64_t length) {
    REAL("ftruncate64", int, int, off64_t);
    char whole[PATH_MAX];
    const char *path = watched_fd(fd, whole);
    if (!path) return real(fd, length);
    CHANGE('t', real(fd, length), TRUNCATE, path, "", (uint64_t)length);
}
int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

int truncate64(const char *name, off64_t length) {
    REAL("truncate64", int, const char *, off64_t);
    char whole[PATH_MAX];
    const char *path = watched_path(AT_FDCWD, name, whole);
    if (!path) return real(name, length);
    CHANGE('t', real(name, length), TRUNCATE, path, "", (uint64_t)length);
}
int truncate(const char *name, off_t length) { return truncate64(name, length); }

int unlinkat(int dirfd, const char *name, int flags) {
    REAL("unlinkat", int, int, const char *, int);
    char whole[PATH_MAX];
    const char *path = watched_path(dirfd, name, whole);
    if (!path) return real(dirfd, name, flags);
    int folder = flags & AT_REMOVEDIR;
    CHANGE(folder ? 'd' : 'u', real(dirfd, name, flags), folder ? RMDIR : UNLINK, path, "", 0);
}
int unlink(const char *name) { return unlinkat(AT_FDCWD, name, 0); }
int rmdir(const char *name) { return unlinkat(AT_FDCWD, name, AT_REMOVEDIR); }

int mkdirat(int dirfd, const char *name, mode_t mode) {
    REAL("mkdirat", int, int, const char *, mode_t);
    char whole[PATH_MAX];
    const char *path = watched_path(dirfd, name, whole);
    if (!path) return real(dirfd, name, mode);
    CHANGE('m', real(dirfd, name, mode), MKDIR, path, "", 0);
}
int mkdir(const char *name, mode_t mode) { return mkdirat(AT_FDCWD, name, mode); }

/* A name that comes from without or goes out of the directory is struck too; the log has no record for that. */
int renameat(int from, const char *old, int to, const char *new) {
    REAL("renameat", int, int, const char *, int, const char *);
    char whole[PATH_MAX], whole2[PATH_MAX];
    const char *path = watched_path(from, old, whole), *path2 = watched_path(to, new, whole2);
    if (!path && !path2) return real(from, old, to, new);
    CHANGE('r', real(from, old, to, new), RENAME, path ? path : "", path2 ? path2 : "", 0);
}
int rename(const char *old, const char *new) { return renameat(AT_FDCWD, old, AT_FDCWD, new); }

int linkat(int from, const char *old, int to, const char *new, int flags) {
    REAL("linkat", int, int, const char *, int, const char *, int);
    char whole[PATH_MAX], whole2[PATH_MAX];
    const char *path = watched_path(from, old, whole), *path2 = watched_path(to, new, whole2);
    if (!path2) return real(from, old, to, new, flags);
    CHANGE('l', real(from, old, to, new, flags), LINK, path ? path : "", path2, 0);
}
int link(const char *old, const char *new) { return linkat(AT_FDCWD, old, AT_FDCWD, new, 0); }

/* --- control --- */

static int watch(const char *dir) {
    char canonical[PATH_MAX];
    if (!realpath(dir, canonical)) return -1;
    strcpy(root, canonical);
    root_len = strlen(root);
    return 0;
}

int fault_arm(const char *dir, long n, int kind) {
    pthread_mutex_lock(&turn);
    int result = watch(dir);
    if (!result) {
        memset(trace, 0, sizeof trace);
        at = n;
        fault = kind;
        count = fired = 0;
        armed = 1;
    }
    pthread_mutex_unlock(&turn);
    return result;
}

void fault_disarm(void) {
    pthread_mutex_lock(&turn);
    armed = 0;
    if (recording < 0) root_len = 0;
    pthread_mutex_unlock(&turn);
}

long fault_count(void) { return count; }
long fault_fired(void) { return fired; }
const char *fault_trace(void) { return trace; }

int fault_record(const char *dir, const char *log) {
    pthread_mutex_lock(&turn);
    if (recording >= 0) close(recording);
    recording = -1;
    if (!armed) root_len = 0;
    int result = 0;
    if (dir && !(result = watch(dir))) {
        recording = raw_open(AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        result = recording < 0 ? -1 : 0;
    }
    pthread_mutex_unlock(&turn);
    return result;
}

void fault_mark(const char *text) {
    pthread_mutex_lock(&turn);
    record(MARK, "", "", 0, text, strlen(text));
    pthread_mutex_unlock(&turn);
}

__attribute__((constructor)) static void from_environment(void) {
    const char *dir = getenv("FAULT_DIR"), *log = getenv("FAULT_LOG"), *n = getenv("FAULT_AT"), *k = getenv("FAULT_KIND");
    int wrong = 0;
    if (dir && n) wrong |= fault_arm(dir, atol(n), k ? atoi(k) : KILL_BEFORE);
    if (dir && log) wrong |= fault_record(dir, log);
    if (wrong) {
        static const char text[] = "faultlib: FAULT_DIR or FAULT_LOG cannot be used\n";
        raw_write(2, text, sizeof text - 1, -1);
        _exit(99);
    }
}
