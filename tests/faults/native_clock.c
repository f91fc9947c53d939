/* What libfaketime 0.9.10 lacks for this service. Put in front of it.
 *
 * cnd_timedwait: librdkafka waits with this C11 call. libfaketime knows pthread_cond_timedwait only;
 * glibc's own passes the lie straight to the kernel, which waits for a day that does not come. Here
 * the call goes through libfaketime. The types of both calls are the same in glibc.
 *
 * clock_nanosleep: Python sleeps until a time of the monotonic clock, and libfaketime makes that an
 * invalid argument when this clock is not to lie. Here the kernel is asked as if nobody lied. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <threads.h>
#include <time.h>
#include <unistd.h>

int cnd_timedwait(cnd_t *restrict condition, mtx_t *restrict mutex,
                  const struct timespec *restrict until)
{
    int error = pthread_cond_timedwait((pthread_cond_t *)condition, (pthread_mutex_t *)mutex, until);
    return error == 0 ? thrd_success : error == ETIMEDOUT ? thrd_timedout : thrd_error;
}

int clock_nanosleep(clockid_t clock, int flags, const struct timespec *wanted,
                    struct timespec *left)
{
    return syscall(SYS_clock_nanosleep, clock, flags, wanted, left) == 0 ? 0 : errno;
}
