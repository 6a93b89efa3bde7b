/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Capture filter: whole chains of matching packets, never half of one. vt_filter() is generated
 * from a pcap expression and stands before this text.
 *
 * From the guest, the frame is looked at when its chain is popped; towards it, when it enters the
 * tap, and the chains popped for it wait until vhost takes that packet out. Records of queues
 * (kicks, wake-ups, signals) are kept: they serve the chains that match.
 */
#define FRAME_BYTES 256
#define MAX_HELD 64

struct frame {
	u8 bytes[FRAME_BYTES + 16];
};

struct held_pops {
	u32 count;
	u32 pad;
	struct vtrace_record records[MAX_HELD];
};

BPF_PERCPU_ARRAY(frames, struct frame, 1);
BPF_PERCPU_ARRAY(no_pops, struct held_pops, 1);
BPF_HASH(held, u32, struct held_pops, 256);
BPF_HASH(wanted_heads, u32, u32, 262144);

/* Does the frame at a kernel address match? A tag held beside it is put back in its place. */
static __always_inline int vt_match_skb(u64 start, u32 room, u32 length, u16 tci, u16 tpid)
{
	u32 zero = 0;
	struct frame *f = frames.lookup(&zero);

	if (!f)
		return 0;
	if (room > FRAME_BYTES)
		room = FRAME_BYTES;
	if (tpid && room > 16 && room <= FRAME_BYTES) {
		u32 rest = room > FRAME_BYTES - 4 ? FRAME_BYTES - 16 : room - 12;
		bpf_probe_read_kernel(f->bytes, 12, (void *)start);
		f->bytes[12] = tpid >> 8;
		f->bytes[13] = tpid;
		f->bytes[14] = tci >> 8;
		f->bytes[15] = tci;
		if (bpf_probe_read_kernel(f->bytes + 16, BELOW(rest, FRAME_BYTES),
					  (void *)(start + 12)))
			return 0;
		return vt_filter(f->bytes, rest + 16, length + 4) != 0;
	}
	if (room == FRAME_BYTES) {
		if (bpf_probe_read_kernel(f->bytes, FRAME_BYTES, (void *)start))
			return 0;
	} else if (bpf_probe_read_kernel(f->bytes, BELOW(room, FRAME_BYTES), (void *)start)) {
		return 0;
	}
	return vt_filter(f->bytes, room, length) != 0;
}

/* Does the frame that starts behind the virtio-net header of a popped chain match? */
static __always_inline int vt_match_chain(struct task_state *t, struct queue_state *q)
{
	u32 zero = 0, header = q->net_header;
	u64 iov[4] = {};
	struct frame *f = frames.lookup(&zero);

	if (!f)
		return 0;
	KREAD(iov, t->iov, 0);
	u64 start = iov[0] + header, room = iov[1] - header;
	if (iov[1] <= header) {
		start = iov[2];
		room = iov[3];
	}
	u32 length = room;
	if (room >= FRAME_BYTES) {
		room = FRAME_BYTES;
		if (vt_read_user(f->bytes, FRAME_BYTES, start))
			return 0;
	} else if (vt_read_user(f->bytes, BELOW(room, FRAME_BYTES), start)) {
		return 0;
	}
	return vt_filter(f->bytes, room, length) != 0;
}

static __always_inline void vt_want_head(u16 queue, u16 head)
{
	u32 key = (u32)queue << 16 | head, one = 1;
	wanted_heads.update(&key, &one);
}

/* A used element of a matching chain? The head is forgotten: the driver may use it again. */
static __always_inline int vt_head_wanted(u16 queue, u32 head)
{
	u32 key = (u32)queue << 16 | (head & 0xffff);
	if (!wanted_heads.lookup(&key))
		return 0;
	wanted_heads.delete(&key);
	return 1;
}

/* Write a record that stands beside the ring. */
static __always_inline void vt_event(struct vtrace_record *r)
{
	struct vtrace_count *count = vt_count(r->kind);
	if (!count)
		return;
	r->seq = vt_next_seq();
	if (events.ringbuf_output(r, sizeof(*r), BPF_RB_NO_WAKEUP))
		count->lost++;
}

/*
 * Does a chain popped from the guest match? Frames of a batch come out in the order of the pops:
 * which of them match is remembered for DELIVER.
 */
static __always_inline int vt_pop_matches(struct task_state *t, struct queue_state *q, u32 head)
{
	int matches = vt_match_chain(t, q);

	if (t->send_pops < 64 && matches)
		t->send_match |= 1ULL << (t->send_pops & 63);
	t->send_pops++;
	if (matches)
		vt_want_head(t->queue, head);
	return matches;
}

/* Keep the record of a chain popped towards the guest until its packet is known. */
static __always_inline void vt_hold_pop(struct vtrace_record *r)
{
	u32 tid = (u32)bpf_get_current_pid_tgid(), zero = 0;
	struct held_pops *h = held.lookup(&tid);

	if (!h) {
		struct held_pops *fresh = no_pops.lookup(&zero);
		if (!fresh)
			return;
		held.update(&tid, fresh);
		h = held.lookup(&tid);
		if (!h)
			return;
	}
	u32 at = h->count;
	if (at >= MAX_HELD)
		return;
	h->count = at + 1;
	__builtin_memcpy(&h->records[at], r, sizeof(*r));
}

static __always_inline void vt_pops_drop(u32 count)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct held_pops *h = held.lookup(&tid);
	if (h)
		h->count = count >= h->count ? 0 : h->count - count;
}

static __always_inline void vt_pops_keep(void)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct held_pops *h = held.lookup(&tid);

	if (!h)
		return;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < MAX_HELD; i++) {
		if (i >= h->count)
			break;
		struct vtrace_record *r = &h->records[i];
		vt_want_head(r->queue, r->head);
		vt_event(r);
	}
	h->count = 0;
}
