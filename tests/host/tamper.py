"""Break notifications of a running QEMU, with stock parts: runs in the test host as root.

    tamper.py lose-kick PID NET INDEX     vhost listens to no kicks of a ring any more
    tamper.py lose-call PID NET INDEX     vhost signals an eventfd that nobody listens to
    tamper.py list PID                    print QEMU's eventfds
    tamper.py storm PID COUNT FD...       signal these eventfds of QEMU so often

The first two make QEMU's main thread do an ioctl on /dev/vhost-net, as a debugger would: NET counts
its vhost devices, INDEX is 0 for receive, 1 for transmit. Uses the standard library only, and
nothing of vtrace.
"""

import contextlib
import ctypes
import os
import pathlib
import struct
import sys

SEIZE, INTERRUPT, STEP, GETREGS, SETREGS, DETACH = 0x4206, 0x4207, 9, 12, 13, 17
WALL = 0x40000000
# struct user_regs_struct of x86-64
REGS = """
    r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi orig_rax rip cs eflags rsp ss
    fs_base gs_base ds es fs gs
""".split()  # noqa: SIM905
NR_IOCTL, NR_EVENTFD2, NR_PIDFD_OPEN, NR_PIDFD_GETFD = 16, 290, 434, 438
SET_VRING_KICK, SET_VRING_CALL = 0x4008AF20, 0x4008AF21

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
libc.ptrace.restype = ctypes.c_long


class Regs(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_ulonglong) for name in REGS)


def ptrace(request, pid, address=None, data=None):
    if libc.ptrace(request, pid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace {request:#x}: {os.strerror(number)}")


class Stopped:
    """A thread that waits in a system call, stopped; it goes on as it was."""

    def __init__(self, pid):
        self.pid = pid

    def __enter__(self):
        ptrace(SEIZE, self.pid)
        ptrace(INTERRUPT, self.pid)
        os.waitpid(self.pid, WALL)
        self.kept = Regs()
        ptrace(GETREGS, self.pid, None, ctypes.byref(self.kept))
        self.memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR)
        assert os.pread(self.memory, 2, self.kept.rip - 2) == b"\x0f\x05", "not in a system call"
        return self

    def __exit__(self, *_):
        ptrace(SETREGS, self.pid, None, ctypes.byref(self.kept))
        ptrace(DETACH, self.pid)
        os.close(self.memory)

    def call(self, number, *arguments):
        regs = Regs.from_buffer_copy(self.kept)
        regs.rax, regs.rip = number, self.kept.rip - 2
        regs.orig_rax = (1 << 64) - 1
        for name, value in zip(("rdi", "rsi", "rdx"), arguments, strict=False):
            setattr(regs, name, value)
        ptrace(SETREGS, self.pid, None, ctypes.byref(regs))
        ptrace(STEP, self.pid)
        os.waitpid(self.pid, WALL)
        ptrace(GETREGS, self.pid, None, ctypes.byref(regs))
        got = ctypes.c_longlong(regs.rax).value
        assert got >= 0, f"system call {number}: {os.strerror(-got)}"
        return got

    def vring_file(self, vhost, request, index, fd):
        at = self.kept.rsp - 1024
        os.pwrite(self.memory, struct.pack("<Ii", index, fd), at)
        self.call(NR_IOCTL, vhost, request, at)


def fds(pid, target):
    found = []
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if str(entry.readlink()) == target:
                found.append(int(entry.name))
    return sorted(found)


def main(verb, pid, *numbers):
    pid, numbers = int(pid), [int(n) for n in numbers]
    if verb == "list":
        print(*fds(pid, "anon_inode:[eventfd]"))
        return
    if verb == "storm":
        count, *wanted = numbers
        pidfd = libc.syscall(NR_PIDFD_OPEN, pid, 0)
        own = [libc.syscall(NR_PIDFD_GETFD, pidfd, fd, 0) for fd in wanted]
        assert min(own) >= 0, os.strerror(ctypes.get_errno())
        one = struct.pack("<Q", 1)
        for _ in range(count):
            for fd in own:
                os.write(fd, one)
        return
    net, index = numbers
    vhost = fds(pid, "/dev/vhost-net")[net]
    with Stopped(pid) as thread:
        if verb == "lose-kick":
            thread.vring_file(vhost, SET_VRING_KICK, index, -1)
        else:
            deaf = thread.call(NR_EVENTFD2, 0, 0)
            thread.vring_file(vhost, SET_VRING_CALL, index, deaf)


if __name__ == "__main__":
    main(*sys.argv[1:])
