"""Which times nobody looked for, by the states of the probes of a recording."""

from vtrace.session.sane import not_probed

VHOST = (
    "ioeventfd_write", "tun_net_xmit", "vhost_poll_wakeup", "handle_rx_kick", "handle_tx_kick",
    "tun_recvmsg", "tun_sendmsg", "vhost_notify:return", "irqfd_wakeup",
)  # fmt: skip
QEMU = (
    "virtqueue_pop", "virtqueue_fill", "virtqueue_flush", "virtio_queue_host_notifier_read",
    "virtio_queue_notify", "event_notifier_set", "virtio_notify", "msix_notify",
)  # fmt: skip


def probes(attached, missing=(), state="unavailable"):
    section = {name: {"state": "attached"} for name in attached}
    return section | {name: {"state": state} for name in missing}


def test_all_is_probed():
    assert not_probed(probes(VHOST + QEMU)) == {"vhost": [], "qemu": []}
    assert not_probed({}) == {"vhost": [], "qemu": []}


def test_qemu_alone_has_its_times_and_vhost_has_none():
    blind = not_probed(probes(QEMU, VHOST))
    assert blind["qemu"] == []
    assert set(blind["vhost"]) == {
        "kick_ns", "enqueue_ns", "wake_ns", "run_ns", "backend_ns", "signal_ns", "irq_ns",
    }  # fmt: skip


def test_vhost_alone_says_nothing_of_a_qemu_that_may_come():
    assert not_probed(probes(VHOST, QEMU)) == {"vhost": [], "qemu": []}


def test_a_point_that_failed_in_qemu():
    blind = not_probed(probes((*QEMU[:-2], "irqfd_wakeup"), QEMU[-2:], "failed"))
    assert blind["qemu"] == ["signal_ns"]
    # Nor can a kick be seen where the kernel takes it and that is not probed: but here QEMU does.
    blind = not_probed(probes(("virtqueue_pop",), ("ioeventfd_write", "event_notifier_set")))
    assert blind["qemu"] == ["kick_ns"]


def test_what_is_no_state_is_no_probe():
    assert not_probed({"irqfd_wakeup": "attached", "vhost_notify": {"state": 7}}) == {
        "vhost": ["signal_ns"],
        "qemu": [],
    }
