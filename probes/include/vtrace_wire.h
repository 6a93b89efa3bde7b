/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The wire: what every vtrace probe writes, and the only truth about it.
 *
 * One record of 64 bytes, the same named fields for every kind. A column means one thing: no field
 * is read in two ways. The table below says which fields a kind sets; all others are zero and mean
 * "not recorded". parsers/wire.py states the same layout as a numpy dtype, and a test compiles this
 * file and compares.
 *
 * Ring indices (avail, position, used, event) are the raw 16-bit values of the virtio split ring;
 * the tracker unwraps them. "Guest memory" is read with a no-fault copy: where it could not be
 * read, VTRACE_F_FAULT is set and the field's own flag is clear.
 *
 * kind        time is ...        sets, besides time, kind, flags, cpu, seq, tid
 * KICK        entry              queue address avail? event? position? used?
 * WAKE        entry              queue            (tid: the waker; F_SOCKET: the tap woke it, not a kick)
 * RUN         entry              queue            (tid: the worker; F_SOCKET as for WAKE)
 * POP         return             queue head count length room position used avail event?
 * EMPTY       return             queue position used avail event?   (ret == num: nothing available)
 * POP_ERROR   return             queue ret position used
 * HAND_BACK   entry              queue count position used          (position: after the hand-back)
 * ENQUEUE     entry              queue packet length count          (count: packets in the tap ring before it)
 * REFUSE      entry              queue packet length count ret      (tun_net_xmit dropped it; DROP has the reason)
 * RECV        return             queue packet length ret span       (ret: bytes copied, or -errno)
 * SEND        return             queue count length ret span        (count: packets in the batch)
 * DELIVER     now                queue packet length count          (a frame of SEND enters the host; count: frames of the SEND before it)
 * USED        entry              queue head length count used position (used: index of this element; count: elements in the batch)
 * SIGNAL      return             queue ret used event? avail?       (ret: 1 interrupt the driver, 0 it asked for none)
 * IRQ         entry              queue address ret                  (address: MSI data << 32 | MSI address; ret: GSI)
 * ENABLE      return             queue ret position used avail      (ret: 0 armed, 1 more work arrived meanwhile)
 * START       return             queue position used                (a backend is attached: driver start, reset, VM resume)
 * STOP        entry              queue position used                (the vhost device goes away)
 * DROP        now                queue packet length ret address    (ret: skb_drop_reason; address: id of the place, see `places`)
 * EXIT        entry to the guest ret span queue address             (ret: exit reason; span: time outside the guest;
 *                                                                    queue, address: of the kick it was, else 0)
 * SCHED_IN    now                ret                                (tid runs; ret: the thread it replaces)
 * SCHED_OUT   now                ret count                          (tid stops; ret: the thread that runs next; count: its state)
 * SCHED_WAKE  now                ret                                (tid became runnable; ret: the waker)
 * FLUSH       entry              queue count used position          (the USED elements before it become visible; count: how many;
 *                                                                    used: index before)
 * DETACH      entry              queue head length                  (the device forgets a chain and does not return it)
 * REQUEST     that of its POP    queue head position length room    (bytes that the driver wrote, of one buffer; length: bytes
 *                                                                    of the chain before them; room: bytes of the buffer)
 * RESPONSE    that of its USED   queue head position length room    (bytes that the device wrote, in the same way)
 * CAPTURED    as captured        queue packet length               (a frame that another tool saw at an interface: imported, no
 *                                                                    probe writes it)
 *
 * "x?" : only if its flag (F_AVAIL, F_EVENT, ...) is set.
 *
 * Of QEMU's own backends (F_QEMU) the times are those of uprobes: KICK is an ioeventfd as for vhost,
 * else virtio_queue_notify; RUN virtio_queue_host_notifier_read or virtio_queue_notify; POP, EMPTY
 * the return of virtqueue_pop; HAND_BACK virtqueue_unpop and virtqueue_rewind; USED virtqueue_fill
 * (count is 1); SIGNAL the return of virtio_notify and virtio_notify_irqfd; ENABLE that of
 * virtio_queue_set_notification (ret 1 too where it asks for no kicks); START the first use after the
 * driver's DRIVER_OK, STOP virtio_reset. There USED also sets ret: the last byte of the chain that
 * the device may write, or -1 (none, not readable). `position` of REQUEST and RESPONSE is that of the
 * chain's POP, where F_POSITION is set.
 *
 * Of a packed ring (F_PACKED) position and used are a place in the ring and the wrap counter, as
 * VHOST_SET_VRING_BASE has them: place | wrap << 15. avail and event are not set, head is the buffer
 * id, and POP also sets ret: the places of the ring that the chain takes (1 if it is indirect).
 */
#ifndef VTRACE_WIRE_H
#define VTRACE_WIRE_H

#include <linux/types.h>

#define VTRACE_WIRE_VERSION 1

enum vtrace_kind {
	VTRACE_KIND_NONE = 0,
	VTRACE_KIND_KICK = 1,
	VTRACE_KIND_WAKE = 2,
	VTRACE_KIND_RUN = 3,
	VTRACE_KIND_POP = 4,
	VTRACE_KIND_EMPTY = 5,
	VTRACE_KIND_POP_ERROR = 6,
	VTRACE_KIND_HAND_BACK = 7,
	VTRACE_KIND_ENQUEUE = 8,
	VTRACE_KIND_REFUSE = 9,
	VTRACE_KIND_RECV = 10,
	VTRACE_KIND_SEND = 11,
	VTRACE_KIND_DELIVER = 12,
	VTRACE_KIND_USED = 13,
	VTRACE_KIND_SIGNAL = 14,
	VTRACE_KIND_IRQ = 15,
	VTRACE_KIND_ENABLE = 16,
	VTRACE_KIND_START = 17,
	VTRACE_KIND_STOP = 18,
	VTRACE_KIND_DROP = 19,
	VTRACE_KIND_EXIT = 20,
	VTRACE_KIND_SCHED_IN = 21,
	VTRACE_KIND_SCHED_OUT = 22,
	VTRACE_KIND_SCHED_WAKE = 23,
	VTRACE_KIND_FLUSH = 24,
	VTRACE_KIND_DETACH = 25,
	VTRACE_KIND_REQUEST = 26,
	VTRACE_KIND_RESPONSE = 27,
	VTRACE_KIND_CAPTURED = 28,
	VTRACE_KIND_COUNT = 29,
};

enum vtrace_flag {
	VTRACE_F_AVAIL = 1 << 0,	/* avail holds the driver's avail->idx as seen now */
	VTRACE_F_EVENT = 1 << 1,	/* event holds the driver's used_event as seen now */
	VTRACE_F_POSITION = 1 << 2,	/* position is set */
	VTRACE_F_USED = 1 << 3,		/* used is set */
	VTRACE_F_FAULT = 1 << 4,	/* guest memory could not be read without a fault */
	VTRACE_F_NO_INTERRUPT = 1 << 5,	/* the driver's avail->flags asks for no interrupt */
	VTRACE_F_EVENT_IDX = 1 << 6,	/* VIRTIO_F_EVENT_IDX is negotiated */
	VTRACE_F_SOCKET = 1 << 7,	/* work of the tap socket, not of the kick */
	VTRACE_F_CUT = 1 << 8,		/* more elements or bytes than could be recorded */
	VTRACE_F_NO_MAC = 1 << 9,	/* captured bytes start at the network header */
	VTRACE_F_SVM = 1 << 10,		/* exit reason in AMD's numbering; else Intel's */
	VTRACE_F_PREEMPTED = 1 << 11,	/* SCHED_OUT while runnable */
	VTRACE_F_BATCH = 1 << 12,	/* SEND: vhost's XDP batch (TUN_MSG_PTR) */
	VTRACE_F_PACKED = 1 << 13,	/* position and used are those of a packed ring */
	VTRACE_F_QEMU = 1 << 14,	/* QEMU's own backend, not vhost */
};

/* 64 bytes, no padding. */
struct vtrace_record {
	__u64 time;	/* CLOCK_MONOTONIC, ns */
	__u64 address;	/* guest-physical address or port; MSI message; id of a place */
	__u32 packet;	/* packet id, reused after 2^32 packets; 0: none */
	__u32 seq;	/* per-CPU sequence number of the attempt: a gap is a lost record */
	__u32 tid;	/* thread the record is about (the current one but for SCHED_*) */
	__u32 length;	/* bytes: readable by the device (POP), written (USED), frame */
	__s32 ret;	/* return value or code, see the table */
	__u32 room;	/* bytes writable by the device (POP) */
	__u32 span;	/* ns the act took; 0xffffffff: that long or longer */
	__u16 queue;	/* id in the queue table (virtqueue, tap queue or interface) */
	__u16 count;	/* how many: descriptors, elements, packets */
	__u16 head;	/* first descriptor of the chain, its id in the used ring */
	__u16 avail;	/* driver's avail->idx */
	__u16 position;	/* device's place in the available ring: this chain's, or the next */
	__u16 used;	/* device's place in the used ring: this element's, or the next */
	__u16 event;	/* driver's used_event */
	__u16 kind;	/* enum vtrace_kind */
	__u16 flags;	/* enum vtrace_flag, or-ed */
	__u16 cpu;	/* CPU the record was written on */
};

/* What follows a record in the packet ring: offload state, then the first bytes of the frame. */
struct vtrace_snap {
	__u16 captured;		/* bytes valid in the area behind */
	__u16 gso_size;		/* virtio_net_hdr's fields, as the skb holds them */
	__u16 csum_start;	/* from the start of the frame */
	__u16 csum_offset;
	__u8 hdr_flags;		/* VIRTIO_NET_HDR_F_*: 1 needs checksum, 2 data valid */
	__u8 gso_type;		/* VIRTIO_NET_HDR_GSO_* */
	__u16 vlan_tci;		/* tag held beside the frame (0: none) */
	__u16 vlan_proto;	/* its TPID, host order */
	__u16 reserved;
};

/* Per CPU and kind, in band: produced = received + lost + pending. */
struct vtrace_count {
	__u64 produced;	/* records a probe wanted to write */
	__u64 lost;	/* refused by a full ring */
};

#endif
