/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * kvm: kicks that an ioeventfd took, interrupts that an irqfd sent.
 */

#ifdef WITH_VHOST
#define MAX_WAITERS 4

/* Find the virtqueue that waits for an eventfd nobody has seen yet: through its wait queue. */
static __always_inline void vt_bootstrap_eventfd(u64 ctx)
{
	u64 head = ctx + OFF_EVENTFD_WQH + OFF_WQH_HEAD, next = 0, vq = 0;
	struct eventfd_state other = { .kind = EVENTFD_OTHER };

	KREAD(next, head, 0);
#pragma clang loop unroll(disable)
	for (int i = 0; i < MAX_WAITERS; i++) {
		u64 wait, func = 0, fn = 0;
		u16 flags = 0;
		if (!next || next == head)
			break;
		wait = next - OFF_WAIT_ENTRY;
		KREAD(func, wait, OFF_WAIT_FUNC);
		if (func == SYM_vhost_poll_wakeup) {
			u64 poll = wait - OFF_POLL_WAIT;
			KREAD(fn, poll, OFF_POLL_WORK + OFF_WORK_FN);
			vq = vt_queue_of_poll(poll, fn, &flags);
			if (flags)
				vq = 0;
		}
		if (vq)
			break;
		KREAD(next, next, 0);
	}
	if (vq) {
		/* One that is not wanted is remembered as such; one without a backend may come yet. */
		struct queue_state *q = vt_queue(vq);
		if (!q || q->id)
			return;
	}
	eventfds.insert(&ctx, &other);
}
#endif

#ifdef WITH_QEMU_VIRTIO
/*
 * A kick of a queue of QEMU's, or of an eventfd that QEMU may yet say is one: the vCPU is in it.
 * Returns whether it is the former. The eventfd of a queue that has stopped is closed, and its
 * memory may be anybody's.
 */
static __always_inline int vt_kvm_qemu_kick(struct eventfd_state *known, u64 eventfd, u64 address,
					     u64 now)
{
	struct qemu_layout *lay = vt_qemu_layout();

	if (!lay)
		return 0;
	if (known && known->kind == EVENTFD_QEMU_KICK) {
		struct qemu_queue *q = vt_qemu_known(known->vq);
		if (q && q->started && q->kick == eventfd) {
			vt_qemu_kick(lay, q, known->vq, now, address);
			return 1;
		}
	}
	struct qemu_key key = vt_qemu_key(eventfd);
	struct qemu_kick kick = {
		.time = now, .address = address, .tid = (u32)bpf_get_current_pid_tgid(),
	};
	qemu_kicks.update(&key, &kick);
	return 0;
}
#endif

int vt_kick(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	u64 device = PT_REGS_PARM2(ctx) - OFF_IOEVENTFD_DEV, address = PT_REGS_PARM3(ctx);
	u64 value = PT_REGS_PARM5(ctx), base = 0, eventfd = 0, match = 0, written = 0;
	int length = PT_REGS_PARM4(ctx), wanted = 0;
	u8 wildcard = 0;

	vt_called(CALL_KICK_ENTRY);
	/* The kernel's own test (ioeventfd_in_range): a miss is offered to the next device. */
	KREAD(base, device, OFF_IOEVENTFD_ADDR);
	KREAD(wanted, device, OFF_IOEVENTFD_LENGTH);
	if (base != address)
		return 0;
	if (wanted) {
		if (length != wanted)
			return 0;
		KREAD(wildcard, device, OFF_IOEVENTFD_WILDCARD);
		if (!wildcard) {
			KREAD(match, device, OFF_IOEVENTFD_DATAMATCH);
			/* The value is in a buffer of 8 bytes or more; only `length` of it was written. */
			KREAD(written, value, 0);
			if (length < 8)
				written &= (1ULL << ((length & 7) * 8)) - 1;
			if (match != written)
				return 0;
		}
	}
	KREAD(eventfd, device, OFF_IOEVENTFD_EVENTFD);
	struct eventfd_state *known = eventfds.lookup(&eventfd);
#ifdef WITH_VHOST
	if (!known) {
		vt_bootstrap_eventfd(eventfd);
		known = eventfds.lookup(&eventfd);
	}
#endif
#ifdef WITH_QEMU_VIRTIO
	if ((!known || known->kind == EVENTFD_OTHER || known->kind == EVENTFD_QEMU_KICK) &&
	    !vt_kvm_qemu_kick(known, eventfd, address, now))
		return 0;
#endif
	if (!known || (known->kind != EVENTFD_KICK && known->kind != EVENTFD_QEMU_KICK))
		return 0;
#ifdef WITH_EXITS
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct exit_state *e = exit_states.lookup(&tid);
	if (e && e->time) {
		e->queue = known->id;
		e->address = address;
	}
#endif
#ifdef WITH_VHOST
	if (known->kind != EVENTFD_KICK)
		return 0;
	u64 vq = known->vq;
	struct queue_state *q = queues.lookup(&vq);
	struct vtrace_record *r = vt_begin(VTRACE_KIND_KICK, now, known->id);
	if (!r)
		return 0;
	r->address = address;
	if (q) {
		vt_indices(vq, r);
		vt_driver(q, r);
	}
	vt_submit(r);
#endif
	return 0;
}

int vt_irq(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	u64 irqfd = PT_REGS_PARM1(ctx) - OFF_IRQFD_WAIT, eventfd = 0;
	u32 low = 0, data = 0;

	if (!(PT_REGS_PARM4(ctx) & 1))
		return 0;
	KREAD(eventfd, irqfd, OFF_IRQFD_EVENTFD);
	struct eventfd_state *known = eventfds.lookup(&eventfd);
	if (!known || (known->kind != EVENTFD_CALL && known->kind != EVENTFD_QEMU_CALL))
		return 0;
#ifdef WITH_QEMU_VIRTIO
	if (known->kind == EVENTFD_QEMU_CALL) {
		struct qemu_queue *q = vt_qemu_known(known->vq);
		if (!q || !q->started || q->call != eventfd)
			return 0;
	}
#endif
	struct vtrace_record *r = vt_begin(VTRACE_KIND_IRQ, now, known->id);
	if (!r)
		return 0;
	KREAD(low, irqfd, OFF_IRQFD_ENTRY + OFF_ENTRY_MSI);
	KREAD(data, irqfd, OFF_IRQFD_ENTRY + OFF_ENTRY_MSI + 8);
	KREAD(r->ret, irqfd, OFF_IRQFD_GSI);
	r->address = (u64)data << 32 | low;
	if (known->kind == EVENTFD_QEMU_CALL)
		r->flags = VTRACE_F_QEMU;
	vt_submit(r);
	return 0;
}
