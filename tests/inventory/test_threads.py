"""Roles of threads, on a fake host."""

import os

import pytest

from tests.inventory.fakehost import BLOCKED_VCPU, PF_USER_WORKER, QEMU
from vtrace.inventory import discover
from vtrace.inventory.threads import IOCTL

VCPUS = {
    11: "/dev/kvm",
    12: "anon_inode:kvm-vm",
    13: "anon_inode:kvm-vcpu:0",
    14: "anon_inode:kvm-vcpu:4",
}
NUMBER = IOCTL.get(os.uname().machine)


def run_vcpu(fd):
    return f"{NUMBER} {fd:#x} 0xae80 0x0 0x0 0x0 0x0 0x7ffc 0x7fff"


@pytest.fixture
def qemu(host):
    """Return the host with a QEMU, pid 100, that has two vCPUs."""
    host.process(100, [QEMU, "-smp", "2"], files=VCPUS)
    return host


def threads(host):
    (vm,) = discover(host.proc, host.sys)
    return {thread.tid: thread for thread in vm.threads}


def roles(host):
    return {tid: (t.role, t.vcpu, t.proof) for tid, t in threads(host).items()}


def test_named_threads(qemu):
    qemu.thread(100, 101, "qemu-system-x86")
    qemu.thread(100, 102, "IO io1")
    qemu.thread(100, 103, "CPU 0/KVM")
    qemu.thread(100, 104, "CPU 1/KVM")
    qemu.thread(100, 105, "worker")
    assert roles(qemu) == {
        100: ("qemu", None, "main"),
        101: ("qemu", None, "name"),
        102: ("iothread", None, "name"),
        103: ("vcpu", 0, "name"),
        104: ("vcpu", 1, "name"),
        105: ("qemu", None, "name"),
    }
    assert threads(qemu)[102].iothread == "io1"


@pytest.mark.skipif(NUMBER is None, reason="number of ioctl(2) is not known for this machine")
def test_vcpus_by_the_ioctl_they_sit_in(qemu):
    qemu.thread(100, 103, "cpx", syscall=run_vcpu(14))
    qemu.thread(100, 104, "cpx", syscall=run_vcpu(13))
    found = threads(qemu)
    assert (found[103].vcpu, found[103].kvm_id, found[103].proof) == (1, 4, "ioctl")
    assert (found[104].vcpu, found[104].kvm_id, found[104].proof) == (0, 0, "ioctl")


@pytest.mark.skipif(NUMBER is None, reason="number of ioctl(2) is not known for this machine")
def test_a_kernel_helper_shows_its_makers_ioctl_and_is_no_vcpu(qemu):
    qemu.thread(100, 103, "cpx", syscall=run_vcpu(13))
    qemu.thread(100, 106, "kvm-nx-lpage-re", flags=PF_USER_WORKER, syscall=run_vcpu(13))
    assert roles(qemu)[106] == ("kvm", None, "kernel")


def test_vcpus_by_signal_mask(qemu):
    qemu.thread(100, 101, "cpx")
    qemu.thread(100, 103, "cpx", blocked=BLOCKED_VCPU)
    qemu.thread(100, 104, "cpx", blocked=BLOCKED_VCPU)
    assert roles(qemu) == {
        100: ("qemu", None, "main"),
        101: ("unknown", None, "none"),
        103: ("vcpu", 0, "signals"),
        104: ("vcpu", 1, "signals"),
    }


def test_a_mask_is_no_proof_where_numbers_differ(qemu):
    qemu.thread(100, 103, "cpx", blocked=BLOCKED_VCPU)
    assert roles(qemu)[103] == ("unknown", None, "none")


def test_time_in_a_guest_is_proof_but_does_not_number(qemu):
    qemu.thread(100, 103, "cpx", guest_time=5)
    assert roles(qemu)[103] == ("vcpu", None, "kernel")


def test_unknown_is_said(qemu):
    qemu.thread(100, 103, "qemu-system-x86")
    (vm,) = discover(qemu.proc, qemu.sys)
    assert vm.seen == "partial"
    assert any("debug-threads=on" in reason for reason in vm.missing)


@pytest.mark.parametrize("name", ["CPU 0/TCG", "ALL CPUs/TCG"])
def test_tcg(host, name):
    host.process(100, [QEMU, "-accel", "kvm", "-accel", "tcg"])
    host.thread(100, 101, name)
    (vm,) = discover(host.proc, host.sys)
    assert vm.accel == "tcg"
    assert vm.threads[1].role == "vcpu"


def test_vhost_kthread(qemu):
    qemu.kthread(201, "vhost-100")
    qemu.kthread(202, "vhost-1001")
    qemu.kthread(203, "kvm-pit/100")
    found = threads(qemu)
    assert (found[201].role, found[201].kind, found[201].proof) == ("vhost", "kthread", "kernel")
    assert found[203].role == "kvm"
    assert 202 not in found


def test_vhost_task(qemu):
    qemu.thread(100, 107, "vhost-100", flags=PF_USER_WORKER)
    found = threads(qemu)[107]
    assert (found.role, found.kind, found.proof) == ("vhost", "vhost_task", "kernel")


def test_a_name_alone_makes_no_vhost_worker(qemu):
    qemu.thread(100, 107, "vhost-100")
    qemu.process(300, ["/bin/sh"], exe="/bin/sh", comm="vhost-100")
    found = threads(qemu)
    assert found[107].role == "unknown"
    assert 300 not in found


def test_age_and_not_the_number_tells_which_worker_came_first(host):
    host.interface("tap0", 3, tun_flags=0x4102)
    host.process(
        100,
        [
            *(QEMU, "-netdev", "tap,id=n,ifname=tap0,queues=2,vhost=on"),
            *("-device", "virtio-net-pci,netdev=n,mq=on"),
        ],
        files={8: "/dev/vhost-net", 9: "/dev/vhost-net"},
        interfaces={6: "tap0", 7: "tap0"},
    )
    host.thread(100, 900, "vhost-100", flags=PF_USER_WORKER)
    host.thread(100, 107, "vhost-100", flags=PF_USER_WORKER)  # numbers wrapped around
    (vm,) = discover(host.proc, host.sys)
    assert [q.tid for q in vm.devices[0].queues[:4]] == [900, 900, 107, 107]


@pytest.mark.parametrize("comm", ["a) S 1 (b", ") (", "\\x1b[31m"])
def test_a_comm_of_any_kind(qemu, comm):
    qemu.thread(100, 110, comm)
    assert threads(qemu)[110].comm == comm
