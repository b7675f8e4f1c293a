/*
 * Preloaded into the user-mode-linux kernel: lets it run on processors whose extended register state (XSAVE
 * area) is larger than the buffer that the kernel was built with. Such a kernel asks ptrace for NT_X86_XSTATE
 * with its short buffer and stops at boot, because the host refuses to set a state of the wrong length.
 * Here the host always sees its own length; the kernel sees as much of it as its buffer holds.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

enum { LARGEST_AREA_BYTES = 1 << 16 };

typedef long (*ptrace_function)(enum __ptrace_request, pid_t, void *, void *);

static long exchange_state(ptrace_function host, enum __ptrace_request request, pid_t pid, struct iovec *kernel) {
    static __thread char area[LARGEST_AREA_BYTES] __attribute__((aligned(64)));
    struct iovec whole = {area, sizeof area};
    void *kind = (void *)(long)NT_X86_XSTATE;
    if (host(PTRACE_GETREGSET, pid, kind, &whole) != 0)
        return -1;
    size_t shared = kernel->iov_len < whole.iov_len ? kernel->iov_len : whole.iov_len;
    if (request == PTRACE_GETREGSET) {
        memcpy(kernel->iov_base, area, shared);
        kernel->iov_len = shared;
        return 0;
    }
    memcpy(area, kernel->iov_base, shared);
    return host(PTRACE_SETREGSET, pid, kind, &whole);
}

long ptrace(enum __ptrace_request request, ...) {
    static ptrace_function host;
    if (!host)
        host = (ptrace_function)dlsym(RTLD_NEXT, "ptrace");
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    int whole_state = request == PTRACE_GETREGSET || request == PTRACE_SETREGSET;
    if (whole_state && (long)address == NT_X86_XSTATE)
        return exchange_state(host, request, pid, data);
    return host(request, pid, address, data);
}
