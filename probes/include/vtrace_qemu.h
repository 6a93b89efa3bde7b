/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the programs know of QEMU's own virtqueues, and how they read them.
 *
 * A VirtQueue is memory of the QEMU process: no kernel struct, no BTF. Its layout comes from the
 * binary itself (probes/qemu_layout.py), one for each process, in map qemu_layouts. Every function
 * here runs in a thread of that process, so bpf_probe_read_user reads the right memory.
 *
 * Of what a guest can write only the available ring's two indices and its flag are read, and bytes
 * of buffers whose addresses QEMU has checked. No pointer of a guest is followed.
 */

/* Offsets in QEMU's structs; probes/qemu.py fills it by these names. */
struct qemu_layout {
	u32 vq_num;
	u32 vq_desc;
	u32 vq_caches;
	u32 vq_last_avail_idx;
	u32 vq_last_avail_wrap;
	u32 vq_shadow_avail_idx;
	u32 vq_used_idx;
	u32 vq_used_wrap;
	u32 vq_queue_index;
	u32 vq_inuse;
	u32 vq_vdev;
	u32 vq_guest_notifier;
	u32 vq_host_notifier;
	u32 vq_size;
	u32 elem_index;
	u32 elem_ndescs;
	u32 elem_out_num;
	u32 elem_in_num;
	u32 elem_in_sg;
	u32 elem_out_sg;
	u32 vdev_guest_features;
	u32 vdev_vq;
	u32 vdev_device_id;
	u32 cache_start;
	u32 cache_size;		/* 0: the rings are not read */
};

/* Addresses of one process; the same address may be another's too. */
struct qemu_key {
	u64 address;
	u32 tgid;
	u32 pad;
};

struct qemu_queue {
	u64 vdev;
	u64 kick;	/* eventfd_ctx of its host notifier, once known */
	u64 call;	/* the same of its guest notifier */
	u32 num;
	u32 device_id;
	u32 filled;	/* places of a packed ring that elements take which are not flushed yet */
	u16 id;		/* 0: known, not traced */
	u8 event_idx;
	u8 packed;
	u8 started;
	u8 pad[7];
};

/* What a thread is in the middle of. */
struct qemu_task {
	u64 pop;
	u64 unpop;	/* element */
	u64 enabling;
	u64 notify;
	u32 enable;
	u32 raised;
};

/* A kick of an eventfd that nobody knows yet. */
struct qemu_kick {
	u64 time;
	u64 address;
	u32 tid;
	u32 pad;
};

BPF_HASH(qemu_layouts, u32, struct qemu_layout, 1024);
BPF_HASH(qemu_queues, struct qemu_key, struct qemu_queue, 16384);
BPF_HASH(qemu_tasks, u32, struct qemu_task, 16384);
BPF_TABLE("lru_hash", struct qemu_key, u16, qemu_elements, 65536);	/* -> position */
BPF_TABLE("lru_hash", struct qemu_key, u64, qemu_devices, 4096);	/* -> when it began or ended */
BPF_TABLE("lru_hash", struct qemu_key, struct qemu_kick, qemu_kicks, 4096);

#define QEMU_IOV_BLOCK 7	/* iovecs read at once: 112 bytes, below the mask of 128 */
#define QEMU_MAX_IOV 1024	/* VIRTQUEUE_MAX_SIZE of QEMU */
#define QEMU_MAX_QUEUES 1024	/* VIRTIO_QUEUE_MAX of QEMU */
#define QEMU_WALK 256	/* queues of a device that are looked at when it starts or stops */
#define QEMU_BUFFERS 4
#define QEMU_PFN_BYTES 2048
#define VIRTIO_ID_BALLOON 5
#define VIRTIO_DRIVER_OK 4

static __always_inline u32 vt_tgid(void)
{
	return bpf_get_current_pid_tgid() >> 32;
}

static __always_inline struct qemu_key vt_qemu_key(u64 address)
{
	struct qemu_key key = { .address = address, .tgid = vt_tgid() };
	return key;
}

/* The layout of the current process; 0: it is no QEMU that is traced. */
static __always_inline struct qemu_layout *vt_qemu_layout(void)
{
	u32 tgid = vt_tgid(), any = 0;

	if (!vt_vm_wanted(tgid))
		return 0;
	struct qemu_layout *lay = qemu_layouts.lookup(&tgid);
	return lay ? lay : qemu_layouts.lookup(&any);
}

static __always_inline struct qemu_queue *vt_qemu_known(u64 vq)
{
	struct qemu_key key = vt_qemu_key(vq);
	return qemu_queues.lookup(&key);
}

static __always_inline struct qemu_task *vt_qemu_task(void)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct qemu_task *t = qemu_tasks.lookup(&tid);

	if (t)
		return t;
	struct qemu_task fresh = {};
	qemu_tasks.update(&tid, &fresh);
	return qemu_tasks.lookup(&tid);
}

/* A place in a ring as a record has it: of a packed ring with its wrap counter. */
static __always_inline u16 vt_qemu_place(struct qemu_queue *q, u64 vq, u32 index, u32 wrap)
{
	u16 place = 0;
	u8 counter = 0;

	UREAD(place, vq, index);
	if (!q->packed)
		return place;
	UREAD(counter, vq, wrap);
	return (place & 0x7fff) | (counter & 1) << 15;
}

/* A place some steps before or behind another; of a packed ring the counter turns at its ends. */
static __always_inline u16 vt_qemu_step(struct qemu_queue *q, u16 place, int by)
{
	if (!q->packed)
		return place + by;
	int at = (place & 0x7fff) + by, size = q->num & 0xffff;
	u16 wrap = place & 0x8000;

	if (at < 0) {
		at += size;
		wrap ^= 0x8000;
	} else if (at >= size) {
		at -= size;
		wrap ^= 0x8000;
	}
	return (at & 0x7fff) | wrap;
}

/* Indices as QEMU holds them. */
static __always_inline void vt_qemu_indices(struct qemu_layout *lay, struct qemu_queue *q, u64 vq,
					    struct vtrace_record *r)
{
	r->position = vt_qemu_place(q, vq, lay->vq_last_avail_idx, lay->vq_last_avail_wrap);
	r->used = vt_qemu_place(q, vq, lay->vq_used_idx, lay->vq_used_wrap);
	r->flags |= VTRACE_F_POSITION | VTRACE_F_USED | VTRACE_F_QEMU;
	if (q->packed)
		r->flags |= VTRACE_F_PACKED;
}

/* The driver's side of a split ring: from guest memory, else (`popped`) as QEMU last saw it. */
static __always_inline void vt_qemu_driver(struct qemu_layout *lay, struct qemu_queue *q, u64 vq,
					   struct vtrace_record *r, int popped)
{
	u64 caches = 0, ring = 0;
	u16 head[2] = {};

	if (q->event_idx)
		r->flags |= VTRACE_F_EVENT_IDX;
	if (q->packed)
		return;
	if (lay->cache_size) {
		UREAD(caches, vq, lay->vq_caches);
		/* The second cache, behind that of the descriptors: its address in QEMU. */
		if (caches)
			UREAD(ring, caches, (u64)lay->cache_start + lay->cache_size);
	}
	if (!ring) {
		if (popped && !UREAD(r->avail, vq, lay->vq_shadow_avail_idx))
			r->flags |= VTRACE_F_AVAIL;
		return;
	}
	if (UREAD(head, ring, 0)) {
		r->flags |= VTRACE_F_FAULT;
		return;
	}
	if (head[0] & 1)
		r->flags |= VTRACE_F_NO_INTERRUPT;
	r->avail = head[1];
	r->flags |= VTRACE_F_AVAIL;
	if (!q->event_idx)
		return;
	if (UREAD(r->event, ring, 4 + 2 * (u64)(q->num & 0xffff)))
		r->flags |= VTRACE_F_FAULT;
	else
		r->flags |= VTRACE_F_EVENT;
}

/* Read again what a driver may have changed: size and features. */
static __always_inline void vt_qemu_refresh(struct qemu_layout *lay, struct qemu_queue *q, u64 vq)
{
	u64 features = 0;
	struct queue_info *info = vt_info(q->id);

	UREAD(q->num, vq, lay->vq_num);
	UREAD(features, q->vdev, lay->vdev_guest_features);
	q->event_idx = (features >> 29) & 1;
	q->packed = (features >> 34) & 1;
	q->filled = 0;
	if (!info)
		return;
	info->num = q->num;
	info->features = features;
	info->packed = q->packed;
}

static __always_inline void vt_qemu_start(struct qemu_layout *lay, struct qemu_queue *q, u64 vq,
					  u64 time)
{
	struct queue_info *info = vt_info(q->id);

	vt_qemu_refresh(lay, q, vq);
	q->started = 1;
	if (info)
		info->stopped = 0;
	struct vtrace_record *r = vt_begin(VTRACE_KIND_START, time, q->id);
	if (!r)
		return;
	vt_qemu_indices(lay, q, vq, r);
	vt_submit(r);
}

/*
 * Find a virtqueue that QEMU itself works on, or make it known. Not at DRIVER_OK: it has those that
 * vhost works on, too, and nobody uses them here. One that began while this ran has its START
 * before its first record, at `time`.
 */
static __always_inline struct qemu_queue *vt_qemu_queue(struct qemu_layout *lay, u64 vq, u64 time)
{
	struct qemu_key key = vt_qemu_key(vq);
	struct qemu_queue *known = qemu_queues.lookup(&key);

	if (known) {
		if (known->id && !known->started)
			vt_qemu_start(lay, known, vq, time);
		return known;
	}
	struct qemu_queue q = {};
	u16 index = 0, device_id = 0;

	if (UREAD(q.vdev, vq, lay->vq_vdev) || !q.vdev)
		return 0;
	UREAD(index, vq, lay->vq_queue_index);
	UREAD(device_id, q.vdev, lay->vdev_device_id);
	q.device_id = device_id;
	u32 id = vt_new_id(0);
	struct queue_info *info = vt_info(id);
	q.id = info ? id : 0;
	if (qemu_queues.insert(&key, &q))
		return qemu_queues.lookup(&key);
	known = qemu_queues.lookup(&key);
	if (!known || !info)
		return known;
	vt_qemu_refresh(lay, known, vq);
	info->tgid = key.tgid;
	info->queue_index = index;
	info->role = ROLE_VIRTQUEUE;
	info->backend = BACKEND_QEMU;
	info->device_type = device_id;
	info->vq = vq;
	info->vdev = q.vdev;
	info->registered = bpf_ktime_get_ns();
	struct qemu_key device = vt_qemu_key(q.vdev);
	if (qemu_devices.lookup(&device))
		vt_qemu_start(lay, known, vq, time);
	else
		known->started = 1;
	return known;
}
