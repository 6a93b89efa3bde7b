/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * vhost: wake-up, run, pop, hand-back, used, signal, notification, start and stop of the data queues
 * of vhost-net. Probe points are those that the compiler cannot inline: exported functions that
 * vhost_net calls in vhost, and functions whose address is taken.
 */

/* Read again what a driver or QEMU may have changed: ring, size, features, eventfds. */
static __always_inline void vt_refresh(u64 vq, struct queue_state *q, struct queue_info *info)
{
	u64 file = 0, iotlb = 0, features = 0, eventfd;
	struct eventfd_state e = { .vq = vq, .id = q->id };

	KREAD(q->num, vq, OFF_VQ_NUM);
	KREAD(q->avail, vq, OFF_VQ_AVAIL);
	KREAD(q->used, vq, OFF_VQ_USED);
	KREAD(iotlb, vq, OFF_VQ_IOTLB);
	if (iotlb) {
		q->avail = 0;
		q->used = 0;
	}
	KREAD(features, vq, OFF_VQ_ACKED_FEATURES);
	q->event_idx = (features >> 29) & 1;
	/* 12 bytes with MRG_RXBUF or VERSION_1, else 10. */
	q->net_header = (features >> 15 | features >> 32) & 1 ? 12 : 10;
	KREAD(q->call, vq, OFF_VQ_CALL);
	KREAD(file, vq, OFF_VQ_KICK);
	q->kick = 0;
	if (file)
		KREAD(q->kick, file, OFF_FILE_PRIVATE);
	e.kind = EVENTFD_KICK;
	eventfd = q->kick;
	if (eventfd && q->id)
		eventfds.update(&eventfd, &e);
	e.kind = EVENTFD_CALL;
	eventfd = q->call;
	if (eventfd && q->id)
		eventfds.update(&eventfd, &e);
	info->num = q->num;
	info->features = features;
	info->iotlb = iotlb != 0;
}

/* Find a vhost-net virtqueue, or make it known. 0: not vhost-net's, or without a backend yet. */
static __always_inline struct queue_state *vt_queue(u64 vq)
{
	struct queue_state *known = queues.lookup(&vq);
	if (known)
		return known;

	u64 handle = 0, sock = 0, ops = 0, dev = 0, mm = 0, owner = 0, tun = 0, netdev = 0;
	struct queue_state q = {};
	u32 id = 0;

	KREAD(handle, vq, OFF_VQ_HANDLE_KICK);
	if (handle == SYM_handle_rx_kick)
		q.rx = 1;
	else if (handle != SYM_handle_tx_kick)
		return 0;
	KREAD(sock, vq, OFF_VQ_PRIVATE_DATA);
	if (!sock)
		return 0;
	KREAD(dev, vq, OFF_VQ_DEV);
	KREAD(mm, dev, OFF_DEV_MM);
	KREAD(owner, mm, OFF_MM_OWNER);
	KREAD(q.tgid, owner, OFF_TASK_TGID);
	KREAD(ops, sock, OFF_SOCKET_OPS);
	if (ops == SYM_tun_socket_ops) {
		q.tfile = sock - OFF_TFILE_SOCKET;
		KREAD(tun, q.tfile, OFF_TFILE_TUN);
		if (tun)
			KREAD(netdev, tun, OFF_TUN_DEV);
	}
	if (vt_vm_wanted(q.tgid)) {
		u32 *tap = q.rx && q.tfile ? tfiles.lookup(&q.tfile) : 0;
		id = tap ? *tap : vt_new_id(0);
	}
	struct queue_info *info = vt_info(id);
	if (!info)
		id = 0;
	q.id = id;
	if (queues.insert(&vq, &q))
		return queues.lookup(&vq);
	known = queues.lookup(&vq);
	if (!known || !info || !id)
		return known;
	vt_refresh(vq, known, info);
	info->tgid = q.tgid;
	info->rx = q.rx;
	info->role = ROLE_VIRTQUEUE;
	info->macvtap = q.tfile == 0;
	if (q.tfile)
		KREAD(info->queue_index, q.tfile, OFF_TFILE_QUEUE_INDEX);
	if (netdev) {
		KREAD(info->ifindex, netdev, OFF_DEV_IFINDEX);
		bpf_probe_read_kernel(&info->name, sizeof(info->name),
				      (void *)(netdev + OFF_DEV_NAME));
	}
	if (q.rx && q.tfile)
		tfiles.update(&q.tfile, &id);
	if (!info->registered)
		info->registered = bpf_ktime_get_ns();
	return known;
}

/* The virtqueue that a poll belongs to, and whether the socket (tap) or the kick is polled. */
static __always_inline u64 vt_queue_of_poll(u64 poll, u64 fn, u16 *flags)
{
	if (fn == SYM_handle_rx_kick || fn == SYM_handle_tx_kick)
		return poll - OFF_VQ_POLL;
	*flags = VTRACE_F_SOCKET;
	if (fn == SYM_handle_rx_net)
		return poll - OFF_NET_POLL + OFF_NET_VQS;
	if (fn == SYM_handle_tx_net)
		return poll - OFF_NET_POLL - SIZEOF_POLL + OFF_NET_VQS + SIZEOF_NVQ;
	return 0;
}

/* Indices as vhost holds them. */
static __always_inline void vt_indices(u64 vq, struct vtrace_record *r)
{
	KREAD(r->position, vq, OFF_VQ_LAST_AVAIL);
	KREAD(r->used, vq, OFF_VQ_LAST_USED);
	r->flags |= VTRACE_F_POSITION | VTRACE_F_USED;
}

/* The driver's side of the ring, from guest memory. Current mm must be QEMU's. */
static __always_inline void vt_driver(struct queue_state *q, struct vtrace_record *r)
{
	u16 head[2] = {};

	if (q->event_idx)
		r->flags |= VTRACE_F_EVENT_IDX;
	if (!q->avail)
		return;
	if (UREAD(head, q->avail, 0)) {
		r->flags |= VTRACE_F_FAULT;
		return;
	}
	if (head[0] & 1)
		r->flags |= VTRACE_F_NO_INTERRUPT;
	r->avail = head[1];
	r->flags |= VTRACE_F_AVAIL;
	if (!q->event_idx)
		return;
	if (UREAD(r->event, q->avail, 4 + 2 * (u64)(q->num & 0xffff)))
		r->flags |= VTRACE_F_FAULT;
	else
		r->flags |= VTRACE_F_EVENT;
}

int vt_poll_wakeup(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	u64 poll = PT_REGS_PARM1(ctx) - OFF_POLL_WAIT;
	u64 fn = 0, mask = 0;
	u16 flags = 0;

	KREAD(fn, poll, OFF_POLL_WORK + OFF_WORK_FN);
	u64 vq = vt_queue_of_poll(poll, fn, &flags);
	if (!vq)
		return 0;
	KREAD(mask, poll, OFF_POLL_MASK);
	if (!((u32)PT_REGS_PARM4(ctx) & (u32)mask))
		return 0;
	struct queue_state *q = vt_queue(vq);
	if (!q || !q->id)
		return 0;
	struct vtrace_record *r = vt_begin(VTRACE_KIND_WAKE, now, q->id);
	if (!r)
		return 0;
	r->flags = flags;
	vt_submit(r);
	return 0;
}

/* handle_{rx,tx}_{kick,net}(work): which one it is stands in the work item. */
int vt_run(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	u64 work = PT_REGS_PARM1(ctx), fn = 0;
	u32 tid = (u32)bpf_get_current_pid_tgid();
	u16 flags = 0;

	KREAD(fn, work, OFF_WORK_FN);
	u64 vq = vt_queue_of_poll(work - OFF_POLL_WORK, fn, &flags);
	if (!vq)
		return 0;
	struct queue_state *q = vt_queue(vq);
	if (!q || !q->id)
		return 0;
	if (!threads.lookup(&tid)) {
		struct thread_role role = { .tgid = q->tgid, .role = 1 };
		threads.update(&tid, &role);
	}
	struct vtrace_record *r = vt_begin(VTRACE_KIND_RUN, now, q->id);
	if (!r)
		return 0;
	r->flags = flags;
	vt_submit(r);
	return 0;
}

int vt_pop_entry(struct pt_regs *ctx)
{
	u64 vq = PT_REGS_PARM1(ctx);
	struct queue_state *q = queues.lookup(&vq);
	u32 tid = (u32)bpf_get_current_pid_tgid();

	if (!q || !q->id)
		return 0;
	vt_called(CALL_POP_ENTRY);
	struct task_state *t = tasks.lookup(&tid);
	if (!t) {
		struct task_state fresh = {};
		tasks.update(&tid, &fresh);
		t = tasks.lookup(&tid);
		if (!t)
			return 0;
	}
	t->vq = vq;
	t->iov = PT_REGS_PARM2(ctx);
	t->out_num = PT_REGS_PARM4(ctx);
	t->in_num = PT_REGS_PARM5(ctx);
	t->queue = q->id;
	return 0;
}

#define MAX_SEGMENTS 20

/* Where the record of a pop is put together: in the ring, or beside it where a filter decides. */
static __always_inline struct vtrace_record *vt_pop_begin(u16 kind, u64 now, u16 queue)
{
#ifdef FILTER_PACKETS
	u32 zero = 0;
	struct packet_record *p = scratch.lookup(&zero);
	if (!p)
		return 0;
	vt_head(&p->record, kind, now, 0, queue);
	return &p->record;
#else
	return vt_begin(kind, now, queue);
#endif
}

static __always_inline void vt_pop_end(struct vtrace_record *r)
{
#ifdef FILTER_PACKETS
	vt_event(r);
#else
	vt_submit(r);
#endif
}

int vt_pop_return(struct pt_regs *ctx)
{
	int ret = PT_REGS_RC(ctx);
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct task_state *t = tasks.lookup(&tid);

	if (!t || !t->vq)
		return 0;
	u64 vq = t->vq;
	t->vq = 0;
	vt_called(CALL_POP_RETURN);
	struct queue_state *q = queues.lookup(&vq);
	if (!q)
		return 0;
	u64 now = bpf_ktime_get_ns();
	u16 kind = VTRACE_KIND_POP;
	if (ret < 0)
		kind = VTRACE_KIND_POP_ERROR;
	else if ((u32)ret == q->num)
		kind = VTRACE_KIND_EMPTY;
#ifdef FILTER_PACKETS
	if (kind == VTRACE_KIND_POP && !q->rx && !vt_pop_matches(t, q, ret))
		return 0;
#endif
	struct vtrace_record *r = vt_pop_begin(kind, now, t->queue);
	if (!r)
		return 0;
	vt_indices(vq, r);
	if (kind == VTRACE_KIND_POP_ERROR)
		r->ret = ret;
	else
		vt_driver(q, r);
	if (kind != VTRACE_KIND_POP) {
		vt_pop_end(r);
		return 0;
	}
	u32 out = 0, in = 0;
	KREAD(out, t->out_num, 0);
	KREAD(in, t->in_num, 0);
	r->position -= 1;
	r->head = ret;
	r->count = out + in;
	u64 readable = 0, writable = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MAX_SEGMENTS; i++) {
		u64 bytes = 0;
		if (i >= out + in)
			break;
		KREAD(bytes, t->iov, i * 16 + 8);
		if (i < out)
			readable += bytes;
		else
			writable += bytes;
	}
	if (out + in > MAX_SEGMENTS)
		r->flags |= VTRACE_F_CUT;
	r->length = readable;
	r->room = writable;
#ifdef FILTER_PACKETS
	if (q->rx) {
		vt_hold_pop(r);
		return 0;
	}
#endif
	vt_pop_end(r);
	return 0;
}

int vt_hand_back(struct pt_regs *ctx)
{
	u64 vq = PT_REGS_PARM1(ctx);
	struct queue_state *q = queues.lookup(&vq);

	if (!q || !q->id)
		return 0;
#ifdef FILTER_PACKETS
	if (q->rx) {
		/* They were popped for a packet that is not known yet: forget them with it. */
		vt_pops_drop((u32)PT_REGS_PARM2(ctx));
		return 0;
	}
#endif
	struct vtrace_record *r = vt_begin(VTRACE_KIND_HAND_BACK, bpf_ktime_get_ns(), q->id);
	if (!r)
		return 0;
	vt_indices(vq, r);
	r->count = (u32)PT_REGS_PARM2(ctx);
	r->position -= r->count;
	vt_submit(r);
	return 0;
}

#define MAX_USED 192

int vt_used(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	u64 vq = PT_REGS_PARM2(ctx), heads = PT_REGS_PARM3(ctx), call = 0;
	u32 count = (u32)USED_COUNT_ARG(ctx);
	u32 tid = (u32)bpf_get_current_pid_tgid();
	u16 used = 0, position = 0;
	struct queue_state *q = queues.lookup(&vq);

	if (!q || !q->id)
		return 0;
	vt_called(CALL_USED_ENTRY);
	KREAD(call, vq, OFF_VQ_CALL);
	if (call && call != q->call) {
		struct eventfd_state e = { .vq = vq, .id = q->id, .kind = EVENTFD_CALL };
		q->call = call;
		eventfds.update(&call, &e);
	}
	struct task_state *t = tasks.lookup(&tid);
	if (t) {
		t->used_vq = vq;
		t->used_queue = q->id;
	}
	KREAD(used, vq, OFF_VQ_LAST_USED);
	KREAD(position, vq, OFF_VQ_LAST_AVAIL);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MAX_USED; i++) {
		u32 elem[2] = {};
		if (i >= count)
			break;
		KREAD(elem, heads, i * 8);
#ifdef FILTER_PACKETS
		if (!vt_head_wanted(q->id, elem[0]))
			continue;
#endif
		struct vtrace_record *r = vt_begin(VTRACE_KIND_USED, now, q->id);
		if (!r)
			continue;
		r->head = elem[0];
		r->length = elem[1];
		r->count = count;
		r->used = used + i;
		r->position = position;
		r->flags = VTRACE_F_USED | VTRACE_F_POSITION;
		if (count > MAX_USED)
			r->flags |= VTRACE_F_CUT;
		vt_submit(r);
	}
	return 0;
}

int vt_signal(struct pt_regs *ctx)
{
	int ret = PT_REGS_RC(ctx) & 0xff;
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct task_state *t = tasks.lookup(&tid);

	if (!t || !t->used_vq)
		return 0;
	u64 vq = t->used_vq;
	t->used_vq = 0;
	vt_called(CALL_SIGNAL_RETURN);
	struct queue_state *q = queues.lookup(&vq);
	if (!q)
		return 0;
	struct vtrace_record *r = vt_begin(VTRACE_KIND_SIGNAL, bpf_ktime_get_ns(), t->used_queue);
	if (!r)
		return 0;
	vt_driver(q, r);
	KREAD(r->used, vq, OFF_VQ_LAST_USED);
	r->flags |= VTRACE_F_USED;
	r->ret = ret != 0;
	vt_submit(r);
	return 0;
}

int vt_enable_entry(struct pt_regs *ctx)
{
	u64 vq = PT_REGS_PARM2(ctx);
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct queue_state *q = queues.lookup(&vq);

	if (!q || !q->id)
		return 0;
	struct task_state *t = tasks.lookup(&tid);
	if (!t)
		return 0;
	vt_called(CALL_ENABLE_ENTRY);
	t->enabling = vq;
	return 0;
}

int vt_enable_return(struct pt_regs *ctx)
{
	int ret = PT_REGS_RC(ctx) & 0xff;
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct task_state *t = tasks.lookup(&tid);

	if (!t || !t->enabling)
		return 0;
	u64 vq = t->enabling;
	t->enabling = 0;
	vt_called(CALL_ENABLE_RETURN);
	struct queue_state *q = queues.lookup(&vq);
	if (!q)
		return 0;
	struct vtrace_record *r = vt_begin(VTRACE_KIND_ENABLE, bpf_ktime_get_ns(), q->id);
	if (!r)
		return 0;
	vt_indices(vq, r);
	vt_driver(q, r);
	r->ret = ret != 0;
	vt_submit(r);
	return 0;
}

BPF_HASH(starting, u32, u64, 1024);

int vt_start_entry(struct pt_regs *ctx)
{
	u64 vq = PT_REGS_PARM1(ctx);
	u32 tid = (u32)bpf_get_current_pid_tgid();

	starting.update(&tid, &vq);
	return 0;
}

/* At the return: only in there does vhost read from the used ring where to go on. */
int vt_start(struct pt_regs *ctx)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	u64 *known = starting.lookup(&tid), vq, sock = 0;

	if (!known)
		return 0;
	vq = *known;
	starting.delete(&tid);
	/* One that is not known yet has nothing to reset: its first run makes it known. */
	struct queue_state *q = queues.lookup(&vq);
	if (!q || !q->id)
		return 0;
	KREAD(sock, vq, OFF_VQ_PRIVATE_DATA);
	if (!sock) {
		/* The backend is taken away: the driver may do what it likes with that memory. */
		q->avail = 0;
		q->used = 0;
		return 0;
	}
	struct queue_info *info = vt_info(q->id);
	if (info)
		vt_refresh(vq, q, info);
	struct vtrace_record *r = vt_begin(VTRACE_KIND_START, bpf_ktime_get_ns(), q->id);
	if (!r)
		return 0;
	vt_indices(vq, r);
	vt_submit(r);
	return 0;
}

#define MAX_VQS 8

int vt_stop(struct pt_regs *ctx)
{
	u64 dev = PT_REGS_PARM1(ctx), vqs = 0;
	u32 nvqs = 0;

	KREAD(vqs, dev, OFF_DEV_VQS);
	KREAD(nvqs, dev, OFF_DEV_NVQS);
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MAX_VQS; i++) {
		u64 vq = 0;
		if (i >= nvqs)
			break;
		KREAD(vq, vqs, i * 8);
		struct queue_state *q = queues.lookup(&vq);
		if (!q)
			continue;
		if (q->id) {
			struct queue_info *info = vt_info(q->id);
			if (info)
				info->stopped = bpf_ktime_get_ns();
			struct vtrace_record *r =
				vt_begin(VTRACE_KIND_STOP, bpf_ktime_get_ns(), q->id);
			if (r) {
				vt_indices(vq, r);
				vt_submit(r);
			}
		}
		u64 key = q->kick;
		eventfds.delete(&key);
		key = q->call;
		eventfds.delete(&key);
		key = q->tfile;
		if (q->rx)
			tfiles.delete(&key);
		queues.delete(&vq);
	}
	return 0;
}
