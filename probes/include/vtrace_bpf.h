/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What all programs share: maps, the queue registry, and the way to write a record. Text of this
 * file comes first in the one translation unit that the loader hands to bcc.
 *
 * No kernel struct is included or copied. Offsets (OFF_*), sizes (SIZEOF_*), symbol addresses
 * (SYM_*) and argument positions come from BTF and kallsyms through -D.
 */
#include <uapi/linux/ptrace.h>

/* bcc makes a tracepoint's struct from its format, which names this type; only its size matters. */
enum skb_drop_reason { VTRACE_ANY_REASON };

#ifndef SNAP_BYTES
#define SNAP_BYTES 128
#endif
#define MAX_IDS 32768	/* ids are given out by each CPU on its own, so there are gaps */
#define MAX_QUEUES 4096

#define KREAD(dst, ptr, off) \
	bpf_probe_read_kernel(&(dst), sizeof(dst), (void *)((u64)(ptr) + (off)))

/*
 * The one call of it in the text: for each that it finds, bcc reads all of /proc/kallsyms to see
 * whether the kernel has that function.
 */
static __always_inline long vt_read_user(void *dst, u32 size, u64 from)
{
	return bpf_probe_read_user(dst, size, (void *)from);
}

#define UREAD(dst, ptr, off) vt_read_user(&(dst), sizeof(dst), (u64)(ptr) + (off))

/* A length that the verifier can see is below `limit`, a power of two; clang may not drop the mask. */
#define BELOW(n, limit) \
	({ u64 vt_n = (n); asm volatile("%0 &= %1" : "+r"(vt_n) : "i"((limit) - 1)); vt_n; })

/* The same for an index into a frame: what the load uses is the masked value itself. */
#define VT_BOUND(o, mask) asm volatile("%0 &= %1" : "+r"(o) : "i"(mask))

struct packet_record {
	struct vtrace_record record;
	struct vtrace_snap snap;
	u8 bytes[SNAP_BYTES];
};

enum backend { BACKEND_VHOST = 0, BACKEND_QEMU = 1 };
enum role { ROLE_VIRTQUEUE = 1, ROLE_TAP = 2, ROLE_INTERFACE = 3 };

/* What the programs know of a virtqueue. Kernel addresses stay in here. */
struct queue_state {
	u64 avail;	/* user address of the available ring; 0: not readable (IOTLB, no backend) */
	u64 used;	/* the same of the used ring */
	u64 call;	/* eventfd_ctx of the call eventfd */
	u64 kick;	/* eventfd_ctx of the kick eventfd */
	u64 tfile;
	u32 num;
	u32 tgid;
	u16 id;		/* 0: known, not traced */
	u8 rx;
	u8 event_idx;
	u32 net_header;	/* bytes of virtio_net_hdr before a frame */
};

/* What user space may know of an id: no kernel address in it. */
struct queue_info {
	u64 features;
	u64 registered;	/* CLOCK_MONOTONIC ns; 0: id not in use */
	u64 stopped;
	u32 tgid;
	u32 num;
	u32 ifindex;
	u16 queue_index;
	u8 role;
	u8 rx;
	u8 macvtap;
	u8 iotlb;
	char name[16];
	u8 backend;	/* enum backend */
	u8 packed;
	u16 device_type;	/* virtio's device id, where QEMU is the backend */
	char pad[2];
	u64 vq;		/* user addresses in QEMU, for the attach process alone */
	u64 vdev;
};

/* What a thread is in the middle of. */
struct task_state {
	u64 vq;
	u64 iov;
	u64 out_num;
	u64 in_num;
	u64 start;
	u64 enabling;
	u32 packet;
	u32 length;
	u16 queue;
	u16 send_queue;
	u16 send_count;
	u16 send_index;
	u16 send_flags;
	u16 receiving;
	u16 sending;
	u16 used_queue;
	u64 used_vq;
	u64 send_match;
	u32 send_pops;
	u32 pad;
};

struct thread_role {
	u32 tgid;
	u32 role;	/* 1 vhost worker, 2 vCPU, 3 of QEMU, works on queues */
};

struct exit_state {
	u64 time;	/* 0: the vCPU is in the guest */
	u64 address;
	u32 reason;
	u32 svm;
	u32 queue;	/* the exit was a kick of this queue */
	u16 io;		/* enum exit_io; 0: no port and no address was touched, that one knows of */
	u16 write;
	u64 user;	/* when it went to user space; 0: it did not */
};

enum exit_io { EXIT_PIO = 1, EXIT_MMIO = 2 };

enum eventfd_kind { EVENTFD_KICK = 1, EVENTFD_CALL = 2, EVENTFD_OTHER = 3,
		    EVENTFD_QEMU_KICK = 4, EVENTFD_QEMU_CALL = 5 };

struct eventfd_state {
	u64 vq;
	u32 id;
	u32 kind;
};

struct exit_key {
	u32 tid;
	u32 tgid;
	u32 reason;
	u16 svm;
	u8 io;		/* enum exit_io */
	u8 write;
	u64 address;	/* port, or page of guest-physical memory */
};

struct exit_total {
	u64 count;
	u64 ns;
	u64 user_count;
	u64 user_ns;	/* from leaving for user space to the entry */
};

struct interrupt_key {
	u32 tgid;	/* of the thread that told KVM */
	u32 msi;
	u32 gsi;
	u32 data;
	u64 address;
};

enum unkept { UNKEPT_EXITS, UNKEPT_INTERRUPTS, UNKEPT_COUNT };

/* A packet in a tap's ring. Where QEMU reads the tap itself nobody sees it leave, and its skb is
 * used again for others: those are on another device. */
struct skb_packet {
	u64 dev;
	u32 packet;	/* 0: not one that the capture filter wants */
	u32 pad;
};

struct xmit_state {
	u64 skb;
	u32 matched;
	u32 busy;
};

BPF_RINGBUF_OUTPUT(events, EVENT_PAGES);
BPF_RINGBUF_OUTPUT(packets, PACKET_PAGES);
BPF_PERCPU_ARRAY(counts, struct vtrace_count, VTRACE_KIND_COUNT);
BPF_PERCPU_ARRAY(sequence, u32, 1);
BPF_PERCPU_ARRAY(id_counter, u64, 3);
BPF_PERCPU_ARRAY(calls, u64, CALL_COUNT);
BPF_PERCPU_ARRAY(scratch, struct packet_record, 1);
BPF_PERCPU_ARRAY(xmit, struct xmit_state, 1);
BPF_PERCPU_ARRAY(xmit_record, struct packet_record, 1);
BPF_HASH(queues, u64, struct queue_state, MAX_QUEUES);
BPF_ARRAY(queue_info, struct queue_info, MAX_IDS);
BPF_HASH(eventfds, u64, struct eventfd_state, 16384);
BPF_HASH(tfiles, u64, u32, MAX_QUEUES);
BPF_HASH(interfaces, u64, u32, 1024);
BPF_HASH(tasks, u32, struct task_state, 16384);
BPF_HASH(threads, u32, struct thread_role, 16384);
BPF_HASH(vms, u32, u32, 1024);
BPF_HASH(taps, u32, u32, 1024);
BPF_TABLE("lru_hash", u64, struct skb_packet, skbs, 65536);

static __always_inline void vt_called(u32 index)
{
	u64 *n = calls.lookup(&index);
	if (n)
		(*n)++;
}

static __always_inline u32 vt_new_id(u32 which)
{
	u64 *n = id_counter.lookup(&which);
	if (!n)
		return 0;
	u64 id = 1 + *n * CPU_COUNT + bpf_get_smp_processor_id();
	(*n)++;
	return (u32)id;
}

/* The number of the next record of this CPU, taken when its time is: so both have one order. */
static __always_inline u32 vt_next_seq(void)
{
	u32 zero = 0, *seq = sequence.lookup(&zero);
	return seq ? ++*seq : 0;
}

/* Count an attempt to write; the caller counts it as lost where the ring refuses it. */
static __always_inline struct vtrace_count *vt_count(u32 kind)
{
	struct vtrace_count *count = counts.lookup(&kind);
	if (count)
		count->produced++;
	return count;
}

static __always_inline void vt_head(struct vtrace_record *r, u16 kind, u64 time, u32 seq, u16 queue)
{
	__builtin_memset(r, 0, sizeof(*r));
	r->time = time;
	r->seq = seq;
	r->tid = (u32)bpf_get_current_pid_tgid();
	r->kind = kind;
	r->queue = queue;
	r->cpu = bpf_get_smp_processor_id();
}

/* Reserve a record in the event ring; the caller fills it and calls vt_submit. */
static __always_inline struct vtrace_record *vt_begin(u16 kind, u64 time, u16 queue)
{
	struct vtrace_count *count = vt_count(kind);
	if (!count)
		return 0;
	u32 seq = vt_next_seq();
	struct vtrace_record *r = events.ringbuf_reserve(sizeof(struct vtrace_record));
	if (!r) {
		count->lost++;
		return 0;
	}
	vt_head(r, kind, time, seq, queue);
	return r;
}

static __always_inline void vt_submit(struct vtrace_record *r)
{
	events.ringbuf_submit(r, BPF_RB_NO_WAKEUP);
}

/* Write a record of the packet ring that stands in per-CPU memory and has its number. */
static __always_inline void vt_output(struct packet_record *p)
{
	struct vtrace_count *count = vt_count(p->record.kind);
	if (!count)
		return;
	if (packets.ringbuf_output(p, sizeof(*p), BPF_RB_NO_WAKEUP))
		count->lost++;
}

static __always_inline int vt_vm_wanted(u32 tgid)
{
#ifdef FILTER_VM
	return vms.lookup(&tgid) != 0;
#else
	return 1;
#endif
}

static __always_inline struct queue_info *vt_info(u32 id)
{
	return id < MAX_IDS ? queue_info.lookup(&id) : 0;
}

/* Tell whether an id is that of a device. Each network namespace counts ifindex for itself. */
static __always_inline int vt_is_dev(struct queue_info *info, u64 dev)
{
	u32 ifindex = 0;
	u64 name[2] = {}, known[2];

	KREAD(ifindex, dev, OFF_DEV_IFINDEX);
	if (info->ifindex != ifindex)
		return 0;
	bpf_probe_read_kernel(&name, sizeof(name), (void *)(dev + OFF_DEV_NAME));
	__builtin_memcpy(known, info->name, sizeof(known));
	return name[0] == known[0] && name[1] == known[1];
}

/* The id of a network interface, as the place of a drop. */
static __always_inline u16 vt_interface(u64 dev)
{
	u32 ifindex = 0;
	if (!dev)
		return 0;
	KREAD(ifindex, dev, OFF_DEV_IFINDEX);
	if (!ifindex)
		return 0;
	u32 *known = interfaces.lookup(&dev);
	if (known) {
		struct queue_info *old = vt_info(*known);
		/* Not filled in yet, or the same; else its memory has another device now. */
		if (!old || !old->registered || vt_is_dev(old, dev))
			return *known;
		interfaces.delete(&dev);
	}
	u32 id = vt_new_id(0);
	struct queue_info *info = vt_info(id);
	if (!info)
		return 0;
	if (interfaces.insert(&dev, &id)) {
		known = interfaces.lookup(&dev);
		return known ? *known : 0;
	}
	info->ifindex = ifindex;
	info->role = ROLE_INTERFACE;
	bpf_probe_read_kernel(&info->name, sizeof(info->name), (void *)(dev + OFF_DEV_NAME));
	info->registered = bpf_ktime_get_ns();
	return id;
}

/* The id of a tap queue; a receive virtqueue on it has the same id. */
static __always_inline u16 vt_tap_queue(u64 tfile, u64 dev, u16 index)
{
	u32 *known = tfiles.lookup(&tfile);
	if (known)
		return *known;
	u32 ifindex = 0;
	KREAD(ifindex, dev, OFF_DEV_IFINDEX);
#ifdef FILTER_VM
	if (!taps.lookup(&ifindex))
		return 0;
#endif
	u32 id = vt_new_id(0);
	struct queue_info *info = vt_info(id);
	if (!info)
		return 0;
	if (tfiles.insert(&tfile, &id)) {
		known = tfiles.lookup(&tfile);
		return known ? *known : 0;
	}
	info->ifindex = ifindex;
	info->role = ROLE_TAP;
	info->rx = 1;
	info->queue_index = index;
	bpf_probe_read_kernel(&info->name, sizeof(info->name), (void *)(dev + OFF_DEV_NAME));
	info->registered = bpf_ktime_get_ns();
	return id;
}
