"""A fake /proc and /sys, built in code: processes, threads, open files, interfaces."""

from pathlib import Path

PF_KTHREAD = 0x0020_0000
PF_USER_WORKER = 0x0000_4000
QEMU = "/nowhere/bin/qemu-system-x86_64"

# What QEMU's threads block: all signals but those of faults; a KVM vCPU takes SIGUSR1, too.
BLOCKED = 0xFFFFFFFE7FFBFA77
BLOCKED_VCPU = 0xFFFFFFFE7FFBF837


class FakeHost:
    """Writes the files that the inventory reads."""

    def __init__(self, place: Path) -> None:
        self.proc, self.sys = place / "proc", place / "sys"
        (self.sys / "class" / "net").mkdir(parents=True)
        self.proc.mkdir()
        self.clock = 100

    def task(
        self, place: Path, tid: int, comm: str, flags: int, *, threads=1, guest_time=0, state="S"
    ) -> None:
        place.mkdir(parents=True, exist_ok=True)
        self.clock += 1
        fields = [0] * 52
        fields[0], fields[6], fields[17] = state, flags, threads
        fields[19], fields[40] = self.clock, guest_time
        tail = " ".join(map(str, fields))
        (place / "stat").write_text(f"{tid} ({comm}) {tail}\n")
        (place / "comm").write_text(comm + "\n")

    def kthread(self, pid: int, comm: str) -> None:
        self.task(self.proc / str(pid), pid, comm, PF_KTHREAD)
        (self.proc / str(pid) / "cmdline").write_bytes(b"")

    def process(
        self,
        pid: int,
        argv: list[str],
        *,
        exe: str = QEMU,
        comm: str = "qemu-system-x86",
        files: dict[int, str] | None = None,
        interfaces: dict[int, str] | None = None,
        state: str = "S",
    ) -> Path:
        """Write a process; ``files`` is where its files point to."""
        place = self.proc / str(pid)
        self.task(place, pid, comm, 0x400000, threads=2, state=state)
        self.thread(pid, pid, comm)
        (place / "cmdline").write_bytes(b"".join(w.encode() + b"\0" for w in argv))
        (place / "exe").symlink_to(exe)
        (place / "fd").mkdir()
        (place / "fdinfo").mkdir()
        for fd, interface in (interfaces or {}).items():
            (place / "fd" / str(fd)).symlink_to("/dev/net/tun")
            (place / "fdinfo" / str(fd)).write_text(f"pos:\t0\nflags:\t02\niff:\t{interface}\n")
        for fd, link in (files or {}).items():
            (place / "fd" / str(fd)).symlink_to(link)
        return place

    def thread(
        self,
        pid: int,
        tid: int,
        comm: str,
        *,
        flags: int = 0x40,
        blocked: int = BLOCKED,
        syscall: str = "",
        guest_time: int = 0,
    ) -> None:
        place = self.proc / str(pid) / "task" / str(tid)
        self.task(place, tid, comm, flags, guest_time=guest_time)
        (place / "status").write_text(f"Name:\t{comm}\nSigBlk:\t{blocked:016x}\n")
        (place / "syscall").write_text(syscall + "\n")

    def interface(
        self, name: str, ifindex: int, *, tun_flags: int | None = None, txqueuelen: int = 1000
    ) -> None:
        place = self.sys / "class" / "net" / name
        place.mkdir()
        values = {"ifindex": ifindex, "tx_queue_len": txqueuelen, "mtu": 1500, "operstate": "up"}
        for key, value in values.items():
            (place / key).write_text(f"{value}\n")
        if tun_flags is not None:
            (place / "tun_flags").write_text(f"{tun_flags:#x}\n")

    def macvtap(self, name: str, ifindex: int) -> None:
        self.interface(name, ifindex)
        (self.sys / "class" / "net" / name / "macvtap" / f"tap{ifindex}").mkdir(parents=True)
