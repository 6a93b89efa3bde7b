/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * qemu_virtio: QEMU's own virtio backends, by uprobes on functions that every build exports.
 */

/* An eventfd that a queue had: its memory may be another queue's by now. */
static __always_inline void vt_qemu_close(u64 eventfd, u64 vq)
{
	struct eventfd_state *e = eventfd ? eventfds.lookup(&eventfd) : 0;

	if (e && e->vq == vq)
		eventfds.delete(&eventfd);
}

/* The eventfd behind a descriptor of the current process. */
#ifdef WITH_KVM
static __always_inline u64 vt_eventfd_of(u32 fd)
{
	u64 task = bpf_get_current_task(), files = 0, table = 0, array = 0, file = 0, eventfd = 0;

	KREAD(files, task, OFF_TASK_FILES);
	KREAD(table, files, OFF_FILES_FDT);
	u32 size = 0;
	KREAD(size, table, OFF_FDT_MAX);
	if (fd >= size)
		return 0;
	KREAD(array, table, OFF_FDT_FD);
	KREAD(file, array, 8 * (u64)fd);
	if (file)
		KREAD(eventfd, file, OFF_FILE_PRIVATE);
	return eventfd;
}

/* Let program kvm know whose an eventfd is. The kick that came before anybody did is written now. */
static __always_inline void vt_qemu_eventfds(struct qemu_layout *lay, struct qemu_queue *q, u64 vq)
{
	struct eventfd_state e = { .vq = vq, .id = q->id };
	u32 fd = 0;
	u64 eventfd;

	UREAD(fd, vq, lay->vq_host_notifier);
	eventfd = vt_eventfd_of(fd);
	if (eventfd && eventfd != q->kick) {
		vt_qemu_close(q->kick, vq);
		q->kick = eventfd;
		e.kind = EVENTFD_QEMU_KICK;
		eventfds.update(&eventfd, &e);
	}
	UREAD(fd, vq, lay->vq_guest_notifier);
	eventfd = vt_eventfd_of(fd);
	if (eventfd && eventfd != q->call) {
		vt_qemu_close(q->call, vq);
		q->call = eventfd;
		e.kind = EVENTFD_QEMU_CALL;
		eventfds.update(&eventfd, &e);
	}
}
#endif

static __always_inline void vt_qemu_kick(struct qemu_layout *lay, struct qemu_queue *q, u64 vq,
					 u64 time, u64 address)
{
	if (!q->id)
		return;
	if (!q->started)
		vt_qemu_start(lay, q, vq, time);
	struct vtrace_record *r = vt_begin(VTRACE_KIND_KICK, time, q->id);
	if (!r)
		return;
	r->address = address;
	vt_qemu_indices(lay, q, vq, r);
	vt_qemu_driver(lay, q, vq, r, 0);
	vt_submit(r);
}

#define KICK_WAITS_NS 1000000000ULL

static __always_inline void vt_qemu_run(struct qemu_queue *q, u64 now)
{
	struct vtrace_record *r = vt_begin(VTRACE_KIND_RUN, now, q->id);
	if (!r)
		return;
	r->flags = VTRACE_F_QEMU;
	vt_submit(r);
}

/* The handler of a queue's host notifier: virtio_queue_host_notifier_read(EventNotifier *). */
int vt_qemu_read(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), start = now;
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct qemu_layout *lay = vt_qemu_layout();

	if (!lay)
		return 0;
	u64 notifier = PT_REGS_PARM1(ctx), vq = notifier - lay->vq_host_notifier, eventfd = 0;
	struct qemu_key key = vt_qemu_key(notifier);
	struct qemu_kick *kick = qemu_kicks.lookup(&key);
#ifdef WITH_KVM
	if (!kick) {
		u32 fd = 0;
		UREAD(fd, notifier, 0);
		key.address = vt_eventfd_of(fd);
		kick = qemu_kicks.lookup(&key);
	}
#endif
	/* One that is older was taken by a poll, or is of another who had this eventfd. */
	if (kick && now - kick->time > KICK_WAITS_NS)
		kick = 0;
	if (kick)
		start = kick->time - 1;
	struct qemu_queue *q = vt_qemu_queue(lay, vq, start);
	if (!q || !q->id)
		return 0;
#ifdef WITH_KVM
	vt_qemu_eventfds(lay, q, vq);
#endif
	if (kick) {
		struct vtrace_record *r = vt_begin(VTRACE_KIND_KICK, kick->time, q->id);
		if (r) {
			r->tid = kick->tid;
			r->address = kick->address;
			r->flags = VTRACE_F_QEMU;
			vt_submit(r);
		}
	}
	qemu_kicks.delete(&key);
	if (!threads.lookup(&tid)) {
		struct thread_role role = { .tgid = key.tgid, .role = 3 };
		threads.update(&tid, &role);
	}
	vt_qemu_run(q, now);
	return 0;
}

/* virtio_queue_notify(VirtIODevice *, int): a kick that came to QEMU itself. */
int vt_qemu_queue_notify(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), vdev = PT_REGS_PARM1(ctx), vq = 0;
	struct qemu_layout *lay = vt_qemu_layout();
	u8 enabled = 0;

	if (!lay)
		return 0;
	UREAD(vq, vdev, lay->vdev_vq);
	if (!vq)
		return 0;
	vq += (PT_REGS_PARM2(ctx) & (QEMU_MAX_QUEUES - 1)) * (u64)lay->vq_size;
	/* Behind the notifier's two descriptors and a flag: whether another thread waits for it. */
	UREAD(enabled, vq, lay->vq_host_notifier + 12);
	if (enabled)
		return 0;
	struct qemu_queue *q = vt_qemu_queue(lay, vq, now);
	if (!q || !q->id)
		return 0;
	vt_qemu_kick(lay, q, vq, now, 0);
	vt_qemu_run(q, now);
	return 0;
}

static __always_inline void vt_qemu_irq(int vector)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct qemu_task *t = qemu_tasks.lookup(&tid);

	if (!t || !t->notify)
		return;
	t->raised = 1;
	struct qemu_queue *q = vt_qemu_known(t->notify);
	struct vtrace_record *r = q ? vt_begin(VTRACE_KIND_IRQ, bpf_ktime_get_ns(), q->id) : 0;
	if (!r)
		return;
	r->ret = vector;
	r->flags = VTRACE_F_QEMU;
	vt_submit(r);
}

/* event_notifier_set(EventNotifier *): a kick where no KVM takes it, or an interrupt by irqfd. */
int vt_qemu_notifier_set(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), notifier = PT_REGS_PARM1(ctx);
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct qemu_layout *lay = vt_qemu_layout();

	if (!lay)
		return 0;
	struct qemu_task *t = qemu_tasks.lookup(&tid);
	if (t && t->notify && notifier == t->notify + lay->vq_guest_notifier) {
#ifdef WITH_KVM
		t->raised = 1;	/* the irqfd itself is seen */
#else
		vt_qemu_irq(-1);
#endif
		return 0;
	}
	struct qemu_queue *q = vt_qemu_known(notifier - lay->vq_host_notifier);
	if (q) {
		vt_qemu_kick(lay, q, notifier - lay->vq_host_notifier, now, 0);
		return 0;
	}
	/* Event loops wake each other in this way all the time, so nothing is made anew. */
	struct qemu_key key = vt_qemu_key(notifier);
	struct qemu_kick *known = qemu_kicks.lookup(&key);
	if (known) {
		known->time = now;
		known->tid = tid;
		return 0;
	}
	struct qemu_kick kick = { .time = now, .tid = tid };
	qemu_kicks.update(&key, &kick);
	return 0;
}

int vt_qemu_pop_entry(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), vq = PT_REGS_PARM1(ctx);
	struct qemu_layout *lay = vt_qemu_layout();

	if (!lay)
		return 0;
	struct qemu_queue *q = vt_qemu_queue(lay, vq, now);
	if (!q || !q->id)
		return 0;
	struct qemu_task *t = vt_qemu_task();
	if (!t)
		return 0;
	vt_called(CALL_QEMU_POP_ENTRY);
	t->pop = vq;
	return 0;
}

/* Bytes of `count` iovecs. */
static __always_inline u64 vt_qemu_bytes(u64 iov, u32 count)
{
	u64 block[2 * QEMU_IOV_BLOCK + 2], total = 0;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < QEMU_MAX_IOV; i += QEMU_IOV_BLOCK) {
		if (i >= count)
			break;
		u32 left = count - i;
		if (left > QEMU_IOV_BLOCK)
			left = QEMU_IOV_BLOCK;
		__builtin_memset(block, 0, sizeof(block));
		if (vt_read_user(block, BELOW(left * 16, 128), (iov + i * 16)))
			break;
		total += block[1] + block[3] + block[5] + block[7] + block[9] + block[11] + block[13];
	}
	return total;
}

/* What REQUEST and RESPONSE records of one chain have in common. */
struct qemu_part {
	u64 time;
	u64 iov;
	u32 count;
	u32 room;	/* bytes at most */
	u16 kind;
	u16 queue;
	u16 head;
	u16 position;
	u16 flags;
};

/* Write `bytes` of a buffer at `base`; `offset` bytes of the part are before them. */
static __always_inline void vt_qemu_piece(struct qemu_part *part, u64 base, u32 bytes, u32 offset,
					  u32 room)
{
	struct vtrace_count *count = vt_count(part->kind);

	if (!count)
		return;
	u32 seq = vt_next_seq();
	struct packet_record *p = packets.ringbuf_reserve(sizeof(struct packet_record));
	if (!p) {
		count->lost++;
		return;
	}
	vt_head(&p->record, part->kind, part->time, seq, part->queue);
	__builtin_memset(&p->snap, 0, sizeof(p->snap));
	p->record.head = part->head;
	p->record.position = part->position;
	p->record.flags = part->flags;
	p->record.length = offset;
	p->record.room = room;
	long failed;
	/* Bytes behind those captured may be of an earlier packet: captured says which are not. */
	if (bytes >= SNAP_BYTES) {
		bytes = SNAP_BYTES;
		failed = vt_read_user(p->bytes, SNAP_BYTES, base);
	} else {
		failed = vt_read_user(p->bytes, BELOW(bytes, SNAP_BYTES), base);
	}
	if (failed)
		p->record.flags |= VTRACE_F_FAULT;
	else
		p->snap.captured = bytes;
	packets.ringbuf_submit(p, BPF_RB_NO_WAKEUP);
}

/* The first bytes of a part of a chain, one record for each of its first buffers. */
static __always_inline void vt_qemu_part(struct qemu_part *part)
{
	u32 offset = 0, left = part->room < SNAP_BYTES ? part->room : SNAP_BYTES;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < QEMU_BUFFERS; i++) {
		u64 iov[2] = {};
		if (i >= part->count || !left)
			break;
		if (UREAD(iov, part->iov, i * 16))
			break;
		u32 room = iov[1] > 0xffffffff ? 0xffffffff : iov[1];
		u32 bytes = room < left ? room : left;
		if (!bytes)
			continue;
		vt_qemu_piece(part, iov[0], bytes, offset, room);
		offset += room;
		left -= bytes;
	}
}

/* The page numbers of a balloon's chain: all of them, in pieces. */
static __always_inline void vt_qemu_pages(struct qemu_part *part)
{
	u64 iov[2] = {};

	if (!part->count || UREAD(iov, part->iov, 0))
		return;
	u32 room = iov[1] > 0xffffffff ? 0xffffffff : iov[1];
#pragma clang loop unroll(disable)
	for (u32 offset = 0; offset < QEMU_PFN_BYTES; offset += SNAP_BYTES) {
		if (offset >= room)
			break;
		vt_qemu_piece(part, iov[0] + offset, room - offset, offset, room);
	}
}

/* What a POP says of an element. */
struct qemu_popped {
	u64 out_sg;
	u64 in_sg;
	u32 out;
	u32 in;
	u32 index;
	u32 steps;	/* places of the ring */
	u16 position;
};

static __always_inline void vt_qemu_popped(struct qemu_layout *lay, struct qemu_queue *q, u64 vq,
					   u64 elem, struct qemu_popped *p)
{
	UREAD(p->index, elem, lay->elem_index);
	UREAD(p->out, elem, lay->elem_out_num);
	UREAD(p->in, elem, lay->elem_in_num);
	UREAD(p->out_sg, elem, lay->elem_out_sg);
	UREAD(p->in_sg, elem, lay->elem_in_sg);
	p->steps = 1;
	if (q->packed)
		UREAD(p->steps, elem, lay->elem_ndescs);
	p->position = vt_qemu_step(q, vt_qemu_place(q, vq, lay->vq_last_avail_idx,
						    lay->vq_last_avail_wrap),
				   -(int)(p->steps & 0x7fff));
}

static __always_inline void vt_qemu_empty(struct qemu_layout *lay, struct qemu_queue *q, u64 vq,
					  u64 now)
{
	struct vtrace_record *r = vt_begin(VTRACE_KIND_EMPTY, now, q->id);
	if (!r)
		return;
	vt_qemu_indices(lay, q, vq, r);
	vt_qemu_driver(lay, q, vq, r, 1);
	vt_submit(r);
}

static __always_inline void vt_qemu_pop(struct qemu_layout *lay, struct qemu_queue *q, u64 vq,
					struct qemu_popped *p, u64 now)
{
	/* Before the record is reserved: one that is not written yet hides all behind it. */
	u64 readable = vt_qemu_bytes(p->out_sg, p->out), writable = vt_qemu_bytes(p->in_sg, p->in);
	struct vtrace_record *r = vt_begin(VTRACE_KIND_POP, now, q->id);
	if (!r)
		return;
	vt_qemu_indices(lay, q, vq, r);
	vt_qemu_driver(lay, q, vq, r, 1);
	r->position = p->position;
	r->head = p->index;
	r->count = p->out + p->in;
	r->length = readable;
	r->room = writable;
	if (q->packed)
		r->ret = p->steps;
	if (p->out > QEMU_MAX_IOV || p->in > QEMU_MAX_IOV)
		r->flags |= VTRACE_F_CUT;
	vt_submit(r);
}

int vt_qemu_pop_return(struct pt_regs *ctx)
{
	u64 elem = PT_REGS_RC(ctx);
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct qemu_task *t = qemu_tasks.lookup(&tid);

	if (!t || !t->pop)
		return 0;
	u64 vq = t->pop;
	t->pop = 0;
	vt_called(CALL_QEMU_POP_RETURN);
	struct qemu_layout *lay = vt_qemu_layout();
	struct qemu_queue *q = vt_qemu_known(vq);
	if (!lay || !q)
		return 0;
	u64 now = bpf_ktime_get_ns();
	if (!elem) {
		vt_qemu_empty(lay, q, vq, now);
		return 0;
	}
	struct qemu_popped popped = {};
	vt_qemu_popped(lay, q, vq, elem, &popped);
	vt_qemu_pop(lay, q, vq, &popped, now);
	struct qemu_key key = vt_qemu_key(elem);
	qemu_elements.update(&key, &popped.position);
	struct qemu_part part = {
		.time = now, .iov = popped.out_sg, .count = popped.out, .room = 0xffffffff,
		.kind = VTRACE_KIND_REQUEST, .queue = q->id, .head = popped.index,
		.position = popped.position, .flags = VTRACE_F_QEMU | VTRACE_F_POSITION,
	};
	if (q->packed)
		part.flags |= VTRACE_F_PACKED;
	struct queue_info *info = vt_info(q->id);
	if (q->device_id == VIRTIO_ID_BALLOON && info && info->queue_index < 2)
		vt_qemu_pages(&part);
	else
		vt_qemu_part(&part);
	return 0;
}

/* virtqueue_fill(VirtQueue *, const VirtQueueElement *, unsigned len, unsigned idx) */
int vt_qemu_fill(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), vq = PT_REGS_PARM1(ctx), elem = PT_REGS_PARM2(ctx), in_sg = 0;
	u32 length = PT_REGS_PARM3(ctx), place = PT_REGS_PARM4(ctx);
	u32 index = 0, in = 0, steps = 1;
	struct qemu_layout *lay = vt_qemu_layout();

	if (!lay)
		return 0;
	struct qemu_queue *q = vt_qemu_known(vq);
	if (!q || !q->id)
		return 0;
	UREAD(index, elem, lay->elem_index);
	UREAD(in, elem, lay->elem_in_num);
	UREAD(in_sg, elem, lay->elem_in_sg);
	if (q->packed) {
		if (!place)
			q->filled = 0;
		place = q->filled;
		UREAD(steps, elem, lay->elem_ndescs);
		q->filled = place + steps;
	}
	struct vtrace_record *r = vt_begin(VTRACE_KIND_USED, now, q->id);
	if (r) {
		vt_qemu_indices(lay, q, vq, r);
		r->used = vt_qemu_step(q, r->used, place & 0x7fff);
		r->head = index;
		r->length = length;
		r->count = 1;
		r->ret = -1;
		if (in && in <= QEMU_MAX_IOV) {
			u64 last[2] = {};
			u8 byte = 0;
			UREAD(last, in_sg, (in - 1) * 16);
			if (last[1] && !UREAD(byte, last[0], last[1] - 1))
				r->ret = byte;
		}
		vt_submit(r);
	}
	struct qemu_part part = {
		.time = now, .iov = in_sg, .count = in, .room = length,
		.kind = VTRACE_KIND_RESPONSE, .queue = q->id, .head = index,
		.flags = VTRACE_F_QEMU,
	};
	struct qemu_key key = vt_qemu_key(elem);
	u16 *position = qemu_elements.lookup(&key);
	if (position) {
		part.position = *position;
		part.flags |= VTRACE_F_POSITION;
		qemu_elements.delete(&key);
	}
	if (q->packed)
		part.flags |= VTRACE_F_PACKED;
	if (length)
		vt_qemu_part(&part);
	return 0;
}

/* virtqueue_flush(VirtQueue *, unsigned count) */
int vt_qemu_flush(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), vq = PT_REGS_PARM1(ctx);
	struct qemu_layout *lay = vt_qemu_layout();

	if (!lay)
		return 0;
	struct qemu_queue *q = vt_qemu_known(vq);
	if (!q || !q->id)
		return 0;
	struct vtrace_record *r = vt_begin(VTRACE_KIND_FLUSH, now, q->id);
	if (!r)
		return 0;
	vt_qemu_indices(lay, q, vq, r);
	r->count = (u32)PT_REGS_PARM2(ctx);
	vt_submit(r);
	return 0;
}

/* Chains go back to the ring: `steps` places of it. */
static __always_inline void vt_qemu_hand_back(struct qemu_layout *lay, struct qemu_queue *q, u64 vq,
					      u32 count, u32 steps)
{
	struct vtrace_record *r = vt_begin(VTRACE_KIND_HAND_BACK, bpf_ktime_get_ns(), q->id);
	if (!r)
		return;
	vt_qemu_indices(lay, q, vq, r);
	r->position = vt_qemu_step(q, r->position, -(int)(steps & 0x7fff));
	r->count = count;
	vt_submit(r);
}

/* virtqueue_unpop(VirtQueue *, VirtQueueElement *, unsigned len) */
int vt_qemu_unpop(struct pt_regs *ctx)
{
	u64 vq = PT_REGS_PARM1(ctx), elem = PT_REGS_PARM2(ctx);
	u32 steps = 1;
	struct qemu_layout *lay = vt_qemu_layout();

	if (!lay)
		return 0;
	struct qemu_queue *q = vt_qemu_known(vq);
	struct qemu_task *t = vt_qemu_task();
	if (!q || !q->id || !t)
		return 0;
	/* It calls virtqueue_detach_element, which is then no record of its own. */
	t->unpop = elem;
	if (q->packed)
		UREAD(steps, elem, lay->elem_ndescs);
	vt_qemu_hand_back(lay, q, vq, 1, steps);
	return 0;
}

/* virtqueue_rewind(VirtQueue *, unsigned num): does nothing where fewer are out. */
int vt_qemu_rewind(struct pt_regs *ctx)
{
	u64 vq = PT_REGS_PARM1(ctx);
	u32 num = PT_REGS_PARM2(ctx), inuse = 0;
	struct qemu_layout *lay = vt_qemu_layout();

	if (!lay)
		return 0;
	struct qemu_queue *q = vt_qemu_known(vq);
	if (!q || !q->id)
		return 0;
	UREAD(inuse, vq, lay->vq_inuse);
	if (num && num <= inuse)
		vt_qemu_hand_back(lay, q, vq, num, num);
	return 0;
}

/* virtqueue_detach_element(VirtQueue *, const VirtQueueElement *, unsigned len) */
int vt_qemu_detach(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), vq = PT_REGS_PARM1(ctx), elem = PT_REGS_PARM2(ctx);
	u32 tid = (u32)bpf_get_current_pid_tgid(), index = 0;
	struct qemu_layout *lay = vt_qemu_layout();

	if (!lay)
		return 0;
	struct qemu_queue *q = vt_qemu_known(vq);
	if (!q || !q->id)
		return 0;
	struct qemu_task *t = qemu_tasks.lookup(&tid);
	if (t && t->unpop == elem) {
		t->unpop = 0;
		return 0;
	}
	UREAD(index, elem, lay->elem_index);
	struct vtrace_record *r = vt_begin(VTRACE_KIND_DETACH, now, q->id);
	if (!r)
		return 0;
	r->head = index;
	r->length = (u32)PT_REGS_PARM3(ctx);
	r->flags = VTRACE_F_QEMU;
	if (q->packed)
		r->flags |= VTRACE_F_PACKED;
	vt_submit(r);
	return 0;
}

/* virtio_queue_set_notification(VirtQueue *, int enable) */
int vt_qemu_enable_entry(struct pt_regs *ctx)
{
	u64 vq = PT_REGS_PARM1(ctx);

	if (!vt_qemu_layout())
		return 0;
	struct qemu_queue *q = vt_qemu_known(vq);
	struct qemu_task *t = vt_qemu_task();
	if (!q || !q->id || !t)
		return 0;
	vt_called(CALL_QEMU_ENABLE_ENTRY);
	t->enabling = vq;
	t->enable = (u32)PT_REGS_PARM2(ctx);
	return 0;
}

int vt_qemu_enable_return(struct pt_regs *ctx)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct qemu_task *t = qemu_tasks.lookup(&tid);

	if (!t || !t->enabling)
		return 0;
	u64 vq = t->enabling;
	t->enabling = 0;
	vt_called(CALL_QEMU_ENABLE_RETURN);
	struct qemu_layout *lay = vt_qemu_layout();
	struct qemu_queue *q = vt_qemu_known(vq);
	if (!lay || !q || !q->id)
		return 0;
	struct vtrace_record *r = vt_begin(VTRACE_KIND_ENABLE, bpf_ktime_get_ns(), q->id);
	if (!r)
		return 0;
	vt_qemu_indices(lay, q, vq, r);
	vt_qemu_driver(lay, q, vq, r, 0);
	r->ret = t->enable == 0;
	vt_submit(r);
	return 0;
}

/* virtio_notify and virtio_notify_irqfd(VirtIODevice *, VirtQueue *) */
int vt_qemu_notify_entry(struct pt_regs *ctx)
{
	u64 vq = PT_REGS_PARM2(ctx);

	if (!vt_qemu_layout())
		return 0;
	struct qemu_queue *q = vt_qemu_known(vq);
	struct qemu_task *t = vt_qemu_task();
	if (!q || !q->id || !t)
		return 0;
	vt_called(CALL_QEMU_NOTIFY_ENTRY);
	t->notify = vq;
	t->raised = 0;
	return 0;
}

int vt_qemu_notify_return(struct pt_regs *ctx)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct qemu_task *t = qemu_tasks.lookup(&tid);

	if (!t || !t->notify)
		return 0;
	u64 vq = t->notify;
	t->notify = 0;
	vt_called(CALL_QEMU_NOTIFY_RETURN);
	struct qemu_layout *lay = vt_qemu_layout();
	struct qemu_queue *q = vt_qemu_known(vq);
	if (!lay || !q || !q->id)
		return 0;
	struct vtrace_record *r = vt_begin(VTRACE_KIND_SIGNAL, bpf_ktime_get_ns(), q->id);
	if (!r)
		return 0;
	vt_qemu_driver(lay, q, vq, r, 0);
	r->used = vt_qemu_place(q, vq, lay->vq_used_idx, lay->vq_used_wrap);
	r->flags |= VTRACE_F_USED | VTRACE_F_QEMU;
	if (q->packed)
		r->flags |= VTRACE_F_PACKED;
	r->ret = t->raised != 0;
	vt_submit(r);
	return 0;
}

/* msix_notify(PCIDevice *, unsigned vector) */
int vt_qemu_msix(struct pt_regs *ctx)
{
	vt_qemu_irq((u32)PT_REGS_PARM2(ctx));
	return 0;
}

/* pci_set_irq(PCIDevice *, int level) */
int vt_qemu_intx(struct pt_regs *ctx)
{
	if ((u32)PT_REGS_PARM2(ctx))
		vt_qemu_irq(-1);
	return 0;
}

/* defer_call(fn, opaque): an irqfd that is written at the end of a batch. */
int vt_qemu_defer(struct pt_regs *ctx)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct qemu_task *t = qemu_tasks.lookup(&tid);
	struct qemu_layout *lay = t && t->notify ? vt_qemu_layout() : 0;

	if (lay && PT_REGS_PARM2(ctx) == t->notify + lay->vq_guest_notifier)
		t->raised = 1;
	return 0;
}

/* virtio_set_status(VirtIODevice *, uint8_t): what is used of it from now on has a START. */
int vt_qemu_set_status(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();

	if (!vt_qemu_layout() || !(PT_REGS_PARM2(ctx) & VIRTIO_DRIVER_OK))
		return 0;
	struct qemu_key key = vt_qemu_key(PT_REGS_PARM1(ctx));
	qemu_devices.update(&key, &now);
	return 0;
}

static __always_inline void vt_qemu_stop(struct qemu_layout *lay, struct qemu_queue *q, u64 vq,
					 u64 now)
{
	struct queue_info *info = vt_info(q->id);

	if (!q->id || !q->started)
		return;
	q->started = 0;
	if (info)
		info->stopped = now;
	struct vtrace_record *r = vt_begin(VTRACE_KIND_STOP, now, q->id);
	if (!r)
		return;
	vt_qemu_indices(lay, q, vq, r);
	vt_submit(r);
}

/* virtio_reset(void *): the driver, the machine or the removal of a device ends its rings. */
int vt_qemu_reset(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns(), vdev = PT_REGS_PARM1(ctx), vq = 0;
	struct qemu_layout *lay = vt_qemu_layout();

	if (!lay)
		return 0;
	struct qemu_key key = vt_qemu_key(vdev);
	qemu_devices.update(&key, &now);
	UREAD(vq, vdev, lay->vdev_vq);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < QEMU_WALK; i++) {
		u32 num = 0;
		if (!vq || UREAD(num, vq, lay->vq_num) || !num)
			break;
		struct qemu_queue *q = vt_qemu_known(vq);
		if (q)
			vt_qemu_stop(lay, q, vq, now);
		vq += lay->vq_size;
	}
	return 0;
}

static __always_inline void vt_qemu_forget(struct qemu_layout *lay, u64 vq)
{
	struct qemu_key key = vt_qemu_key(vq);
	struct qemu_queue *q = qemu_queues.lookup(&key);

	if (!q)
		return;
	vt_qemu_stop(lay, q, vq, bpf_ktime_get_ns());
	vt_qemu_close(q->kick, vq);
	vt_qemu_close(q->call, vq);
	qemu_queues.delete(&key);
}

/* virtio_delete_queue(VirtQueue *) */
int vt_qemu_delete(struct pt_regs *ctx)
{
	struct qemu_layout *lay = vt_qemu_layout();

	if (lay)
		vt_qemu_forget(lay, PT_REGS_PARM1(ctx));
	return 0;
}

/* virtio_del_queue(VirtIODevice *, int) */
int vt_qemu_del(struct pt_regs *ctx)
{
	u64 vdev = PT_REGS_PARM1(ctx), vq = 0;
	struct qemu_layout *lay = vt_qemu_layout();

	if (!lay || UREAD(vq, vdev, lay->vdev_vq) || !vq)
		return 0;
	vt_qemu_forget(lay, vq + (PT_REGS_PARM2(ctx) & (QEMU_MAX_QUEUES - 1)) * (u64)lay->vq_size);
	return 0;
}
