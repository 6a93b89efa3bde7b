"""The role of every thread that works for a VM."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vtrace.inventory.nouns import Proof, Thread, ThreadKind, ThreadRole
from vtrace.inventory.processes import Guest, Stat, decoded, read

__all__ = ["threads_of"]

VCPU = re.compile(r"^CPU (\d+)/")
VCPU_FILE = re.compile(r"^anon_inode:kvm-vcpu:(\d+)$")
KVM_RUN = 0xAE80
# Number of ioctl(2) by the name of the machine.
IOCTL = {"x86_64": 16, "aarch64": 29, "riscv64": 29, "s390x": 54, "ppc64le": 54}
SIGUSR1 = 1 << 9
SIGTERM = 1 << 14


def threads_of(proc: Path, guest: Guest, kthreads: Sequence[Stat]) -> list[Thread]:
    """Return all threads of a guest, its workers in the kernel included, oldest first."""
    pid = guest.stat.pid
    own = [one_of_process(guest, stat) for stat in by_age(guest.threads)]
    own = with_vcpus(proc / str(pid) / "task", guest, own)
    names = {f"vhost-{pid}": ThreadRole.VHOST, f"kvm-pit/{pid}": ThreadRole.KVM}
    outside = [
        Thread(
            tid=stat.pid,
            comm=stat.comm,
            role=names[stat.comm],
            kind=ThreadKind.KTHREAD,
            proof=Proof.KERNEL,
        )
        for stat in by_age(kthreads)
        if stat.comm in names
    ]
    return own + outside


def by_age(stats: Sequence[Stat]) -> list[Stat]:
    # Thread ids wrap around; the time of birth does not.
    return sorted(stats, key=lambda stat: (stat.started, stat.pid))


def one_of_process(guest: Guest, stat: Stat) -> Thread:
    pid, comm = guest.stat.pid, stat.comm
    found = Thread(tid=stat.pid, comm=comm)
    if stat.user_worker:
        # Since Linux commit 6e890c5d5021 ("vhost: use vhost_tasks for worker threads") (in v6.4)
        # workers may be threads of QEMU. KVM has had such helpers, too, since v6.14.
        vhost = comm == f"vhost-{pid}"
        return replace(
            found,
            role=ThreadRole.VHOST if vhost else ThreadRole.KVM,
            kind=ThreadKind.VHOST_TASK,
            proof=Proof.KERNEL,
        )
    if stat.pid == pid:
        return replace(found, role=ThreadRole.QEMU, proof=Proof.MAIN)
    if match := VCPU.match(comm):
        return replace(found, role=ThreadRole.VCPU, vcpu=int(match[1]), proof=Proof.NAME)
    if comm == "ALL CPUs/TCG":
        return replace(found, role=ThreadRole.VCPU, proof=Proof.NAME)
    if comm.startswith("IO ") and guest.qemu:
        return replace(found, role=ThreadRole.IOTHREAD, iothread=comm[3:], proof=Proof.NAME)
    if guest.qemu and names_threads(guest):
        return replace(found, role=ThreadRole.QEMU, proof=Proof.NAME)
    return found


def names_threads(guest: Guest) -> bool:
    # Then a thread without a name of its own is one of those that were made before it named them,
    # and no vCPU.
    return any(VCPU.match(stat.comm) or stat.comm == "ALL CPUs/TCG" for stat in guest.threads)


def with_vcpus(place: Path, guest: Guest, threads: list[Thread]) -> list[Thread]:
    # Fill in what names do not tell: vCPUs by the ioctl they sit in, then by their signal mask.
    ids = sorted(vcpu_files(guest).values())
    by_ioctl = {
        thread.tid: kvm_id
        for thread in threads
        if thread.kind == ThreadKind.THREAD
        and (kvm_id := kvm_run(place, guest, thread.tid)) is not None
    }
    found = [
        as_vcpu(thread, by_ioctl[thread.tid], ids) if thread.tid in by_ioctl else thread
        for thread in threads
    ]
    unknown = [thread for thread in found if thread.role == ThreadRole.UNKNOWN]
    left = [n for n in range(len(ids)) if n not in {thread.vcpu for thread in found}]
    ran = {stat.pid for stat in guest.threads if stat.guest_time}
    masked = [
        thread.tid for thread in unknown if thread.tid in ran or takes_sigusr1(place, thread.tid)
    ]
    if not masked or (ids and len(masked) != len(left)) or not guest.qemu:
        # Which is which cannot be told; that some ran a guest is sure.
        numbered: dict[int, int | None] = {tid: None for tid in masked if tid in ran}
    else:
        numbered = dict(zip(masked, left or range(len(masked)), strict=True))
    return [
        replace(
            thread,
            role=ThreadRole.VCPU,
            vcpu=numbered[thread.tid],
            proof=Proof.KERNEL if thread.tid in ran else Proof.SIGNALS,
        )
        if thread.tid in numbered
        else thread
        for thread in found
    ]


def as_vcpu(thread: Thread, kvm_id: int, ids: list[int]) -> Thread:
    # KVM's ids have gaps, QEMU's indexes do not; both count up in the order of creation.
    if thread.role == ThreadRole.VCPU and thread.vcpu is not None:
        return replace(thread, kvm_id=kvm_id)
    return replace(
        thread,
        role=ThreadRole.VCPU,
        vcpu=ids.index(kvm_id),
        kvm_id=kvm_id,
        proof=Proof.IOCTL,
    )


def vcpu_files(guest: Guest) -> dict[int, int]:
    links = guest.files.links if guest.files else {}
    return {fd: int(match[1]) for fd, link in links.items() if (match := VCPU_FILE.match(link))}


def kvm_run(place: Path, guest: Guest, tid: int) -> int | None:
    # A vhost task shows the system call of the thread that made it: the caller leaves those out.
    words = decoded(read(place / str(tid) / "syscall")).split()
    if len(words) < 3 or words[0] != str(IOCTL.get(os.uname().machine)):
        return None
    try:
        fd, request = int(words[1], 16), int(words[2], 16)
    except ValueError:
        return None
    return vcpu_files(guest).get(fd) if request == KVM_RUN else None


def takes_sigusr1(place: Path, tid: int) -> bool:
    for line in read(place / str(tid) / "status").split(b"\n"):
        if line.startswith(b"SigBlk:"):
            blocked = int(line[7:], 16)
            return bool(blocked & SIGTERM) and not blocked & SIGUSR1
    return False
