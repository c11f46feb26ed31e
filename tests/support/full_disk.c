/* Preloaded into a server: while the file that FULL_DISK names exists, no file grows if its path begins with the
 * text in that file. So does a full disk: blocks that exist can be written, others end with ENOSPC. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static int read_text(const char *path, char *text)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t length = fd < 0 ? -1 : read(fd, text, PATH_MAX - 1);

    if (fd >= 0)
        close(fd);
    text[length > 0 ? length : 0] = '\0';
    return length > 0;
}

/* Whether there is no room for the file to be as long as this. */
static int no_room(int fd, off_t end)
{
    char full[PATH_MAX], link[64], path[PATH_MAX];
    const char *name = getenv("FULL_DISK");
    struct stat is;
    ssize_t length;
    int saved = errno, grows;

    grows = name && access(name, F_OK) == 0 && fstat(fd, &is) == 0 && S_ISREG(is.st_mode) && end > is.st_size;
    if (grows && read_text(name, full)) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        length = readlink(link, path, sizeof path - 1);
        path[length > 0 ? length : 0] = '\0';
        if (strncmp(path, full, strlen(full)) == 0) {
            errno = ENOSPC;
            return 1;
        }
    }
    errno = saved;
    return 0;
}

static off_t position(int fd)
{
    int flags = fcntl(fd, F_GETFL);

    return flags >= 0 && (flags & O_APPEND) ? lseek(fd, 0, SEEK_END) : lseek(fd, 0, SEEK_CUR);
}

static off_t total(const struct iovec *parts, int count)
{
    off_t bytes = 0;

    while (count-- > 0)
        bytes += parts[count].iov_len;
    return bytes;
}

/* The C library's function of that name, looked up once. */
#define REAL(name) \
    ({ static __typeof__(&name) real; if (!real) real = (__typeof__(&name)) dlsym(RTLD_NEXT, #name); real; })

ssize_t write(int fd, const void *bytes, size_t size)
{
    return no_room(fd, position(fd) + size) ? -1 : REAL(write)(fd, bytes, size);
}

ssize_t writev(int fd, const struct iovec *parts, int count)
{
    return no_room(fd, position(fd) + total(parts, count)) ? -1 : REAL(writev)(fd, parts, count);
}

#define PWRITE(name) \
    ssize_t name(int fd, const void *bytes, size_t size, off_t at) \
    { return no_room(fd, at + size) ? -1 : REAL(name)(fd, bytes, size, at); }
#define PWRITEV(name) \
    ssize_t name(int fd, const struct iovec *parts, int count, off_t at) \
    { return no_room(fd, at + total(parts, count)) ? -1 : REAL(name)(fd, parts, count, at); }
#define FALLOCATE(name) \
    int name(int fd, off_t at, off_t size) \
    { return no_room(fd, at + size) ? ENOSPC : REAL(name)(fd, at, size); }

PWRITE(pwrite)
PWRITE(pwrite64)
PWRITEV(pwritev)
PWRITEV(pwritev64)
FALLOCATE(posix_fallocate)
FALLOCATE(posix_fallocate64)
