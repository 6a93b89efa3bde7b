/*
 * Functions of the names of QEMU's, for tests of probes/qemu_layout.py: each does to its structures
 * what QEMU's does, and main() prints the offsets.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char version[] __attribute__((used)) = "QEMU emulator version 9.9.9 (made for a test)";

typedef struct { int rfd, wfd; bool ready; } Notifier;
typedef struct { void *next; void (*func)(void *); } Head;
typedef struct { void *at; uint64_t start, length; char rest[72]; } Cache;
typedef struct { Head head; Cache desc, avail, used; } Caches;
typedef struct { void *base; size_t length; } Iov;
typedef struct {
	unsigned index, len, ndescs, out_num, in_num;
	bool filled;
	uint64_t *in_addr, *out_addr;
	Iov *in_sg, *out_sg;
} Element;
typedef struct {
	unsigned num, num_default, align;
	uint64_t desc, avail, used;
	Caches *caches;
} Ring;

typedef struct Device Device;
typedef struct Queue {
#ifdef SHUFFLED
	Device *vdev;
	uint16_t queue_index;
	unsigned inuse;
#endif
	Ring ring;
	Element *used_elems;
#ifdef WITH_USED_ELEMS_AHEAD
	void *more;
#endif
	uint16_t last_avail_idx;
	bool last_avail_wrap;
	uint16_t shadow_avail_idx;
	bool shadow_avail_wrap;
	uint16_t used_idx;
	bool used_wrap;
	uint16_t signalled_used;
	bool signalled_used_valid, notification;
#ifndef SHUFFLED
	uint16_t queue_index;
	unsigned inuse;
#endif
	uint16_t vector;
	void (*handle)(Device *, struct Queue *);
#ifndef SHUFFLED
	Device *vdev;
#endif
	Notifier guest_notifier, host_notifier;
	bool enabled;
} Queue;

struct Device {
	char object[40];
	char *id, *canonical_path;
	bool realized;
	void *bus;
#ifdef SHUFFLED
	char more[64];
#endif
	const char *name;
	uint8_t status, isr;
	uint64_t guest_features, host_features;
	uint16_t config_vector;
	Queue *vq;
	uint16_t device_id;
	bool broken;
};

typedef struct { char object[40]; void *parent; void *child; } Bus;

/* What is called; it keeps no register for its caller, as a function of some size. */
#define CLOBBERED "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "memory"
#define KEEP __attribute__((noinline, noclone, used))

KEEP void address_space_cache_destroy(Cache *cache)
{
	__asm__ volatile("" ::: CLOBBERED);
}
KEEP void call_rcu1(Head *head, void (*func)(void *))
{
	__asm__ volatile("" ::: CLOBBERED);
}
KEEP void qapi_event_send_device_deleted(const char *id, const char *path)
{
	__asm__ volatile("" ::: CLOBBERED);
}
KEEP static void unmap(Device *vdev, Element *elem, unsigned len)
{
	__asm__ volatile("" ::: CLOBBERED);
}
KEEP static void map_buffers(Device *vdev, Iov *sg, uint64_t *addr, unsigned num, bool write)
{
	__asm__ volatile("" ::: CLOBBERED);
}
KEEP static void put_used(Queue *vq, unsigned id, unsigned len, unsigned n)
{
	__asm__ volatile("" ::: CLOBBERED);
}
KEEP static void set_event(Queue *vq, int on)
{
	__asm__ volatile("" ::: CLOBBERED);
}
KEEP static void *split_pop(Queue *vq, size_t size)
{
	__asm__ volatile("" ::: CLOBBERED);
	return NULL;
}
KEEP static void *packed_pop(Queue *vq, size_t size)
{
	__asm__ volatile("" ::: CLOBBERED);
	return vq;
}

static inline bool packed(Device *vdev) { return vdev->guest_features >> 34 & 1; }

#ifdef HIDDEN_ACCESSOR
__attribute__((visibility("hidden")))
#endif
int virtio_get_queue_index(Queue *vq) { return vq->queue_index; }
int virtio_queue_get_num(Device *vdev, int n) { return vdev->vq[n].ring.num; }
uint64_t virtio_queue_get_desc_addr(Device *vdev, int n) { return vdev->vq[n].ring.desc; }
uint64_t virtio_queue_get_avail_addr(Device *vdev, int n) { return vdev->vq[n].ring.avail; }
uint64_t virtio_queue_get_used_addr(Device *vdev, int n) { return vdev->vq[n].ring.used; }
Queue *virtio_get_queue(Device *vdev, int n) { return vdev->vq + n; }
Notifier *virtio_queue_get_guest_notifier(Queue *vq) { return &vq->guest_notifier; }
Notifier *virtio_queue_get_host_notifier(Queue *vq) { return &vq->host_notifier; }

void virtio_queue_set_notification(Queue *vq, int on)
{
	vq->notification = on;
	if (vq->ring.desc)
		set_event(vq, on);
}
int virtio_queue_get_notification(Queue *vq)
{
#ifdef GETTER_DISAGREES
	return vq->signalled_used_valid;
#else
	return vq->notification;
#endif
}

unsigned virtio_queue_get_last_avail_idx(Device *vdev, int n)
{
	Queue *vq = &vdev->vq[n];
	unsigned avail = vq->last_avail_idx;

	if (!packed(vdev))
		return avail;
	return avail | (unsigned)vq->last_avail_wrap << 15 |
	       (vq->used_idx | (unsigned)vq->used_wrap << 15) << 16;
}
void virtio_queue_set_last_avail_idx(Device *vdev, int n, unsigned idx)
{
	Queue *vq = &vdev->vq[n];

	if (packed(vdev)) {
		vq->last_avail_idx = vq->shadow_avail_idx = idx & 0x7fff;
		vq->last_avail_wrap = vq->shadow_avail_wrap = idx >> 15 & 1;
		vq->used_idx = idx >> 16 & 0x7fff;
		vq->used_wrap = idx >> 31;
	} else {
		vq->last_avail_idx = idx;
		vq->shadow_avail_idx = idx;
	}
}

#ifdef NO_POP
__attribute__((visibility("hidden")))
#endif
void *virtqueue_pop(Queue *vq, size_t size)
{
	if (vq->vdev->broken)
		return NULL;
	return packed(vq->vdev) ? packed_pop(vq, size) : split_pop(vq, size);
}
void virtqueue_detach_element(Queue *vq, Element *elem, unsigned len)
{
	vq->inuse -= elem->ndescs;
	unmap(vq->vdev, elem, len);
}
static inline void back(Queue *vq, unsigned count)
{
	if (packed(vq->vdev) && vq->last_avail_idx < count) {
		vq->last_avail_idx = vq->ring.num + vq->last_avail_idx - count;
		vq->last_avail_wrap ^= 1;
	} else {
		vq->last_avail_idx -= count;
	}
}
void virtqueue_unpop(Queue *vq, Element *elem, unsigned len)
{
	back(vq, 1);
	virtqueue_detach_element(vq, elem, len);
}
bool virtqueue_rewind(Queue *vq, unsigned count)
{
	if (count > vq->inuse)
		return false;
	vq->inuse -= count;
	back(vq, count);
	return true;
}
void virtqueue_map(Device *vdev, Element *elem)
{
	map_buffers(vdev, elem->in_sg, elem->in_addr, elem->in_num, true);
	map_buffers(vdev, elem->out_sg, elem->out_addr, elem->out_num, false);
}
void virtqueue_fill(Queue *vq, const Element *elem, unsigned len, unsigned n)
{
	unmap(vq->vdev, (Element *)elem, len);
	if (vq->vdev->broken)
		return;
	if (packed(vq->vdev)) {
		vq->used_elems[n].index = elem->index;
		vq->used_elems[n].len = len;
		vq->used_elems[n].ndescs = elem->ndescs;
	} else if (vq->ring.used) {
		put_used(vq, elem->index, len, n);
	}
}
static inline void flush_split(Queue *vq, unsigned count)
{
	uint16_t before = vq->used_idx, after = before + count;
	Caches *caches = vq->ring.caches;

	if (caches) {
		if (caches->used.length < 4)
			abort();
		((uint16_t *)caches->used.at)[1] = after;
	}
	vq->used_idx = after;
#ifdef TWO_USED
	vq->shadow_avail_idx = after;
#endif
	vq->inuse -= count;
	if ((int16_t)(after - vq->signalled_used) < (uint16_t)count)
		vq->signalled_used_valid = false;
}
static inline void flush_packed(Queue *vq, unsigned count)
{
	unsigned ndescs = 0;

	for (unsigned n = 0; n < count; n++) {
		put_used(vq, vq->used_elems[n].index, vq->used_elems[n].len, ndescs);
		ndescs += vq->used_elems[n].ndescs;
	}
	vq->inuse -= ndescs;
	vq->used_idx += ndescs;
	if (vq->used_idx >= vq->ring.num) {
		vq->used_idx -= vq->ring.num;
		vq->used_wrap ^= 1;
		vq->signalled_used_valid = false;
	}
}
void virtqueue_flush(Queue *vq, unsigned count)
{
	if (packed(vq->vdev))
		flush_packed(vq, count);
	else
		flush_split(vq, count);
}

KEEP static void free_caches(void *what)
{
	Caches *caches = what;

	address_space_cache_destroy(&caches->desc);
	address_space_cache_destroy(&caches->avail);
#ifndef TWO_CACHES
	address_space_cache_destroy(&caches->used);
#endif
	free(caches);
}
void virtio_delete_queue(Queue *vq)
{
	Caches *caches = vq->ring.caches;

	vq->ring.num = vq->ring.num_default = 0;
	vq->handle = NULL;
	free(vq->used_elems);
	vq->used_elems = NULL;
	vq->ring.caches = NULL;
	if (caches)
		call_rcu1(&caches->head, free_caches);
}

const char *virtio_device_names[] = { NULL, "virtio-net", "virtio-blk" };
void virtio_init(Device *vdev, uint16_t device_id, size_t config)
{
	vdev->device_id = device_id;
	vdev->vq = calloc(1024, sizeof(Queue));
	for (int n = 0; n < 1024; n++) {
		vdev->vq[n].vector = 0xffff;
		vdev->vq[n].vdev = vdev;
		vdev->vq[n].queue_index = n;
	}
#ifndef NO_NAME
	vdev->name = virtio_device_names[device_id];
#endif
}
uint16_t virtio_bus_get_vdev_id(Bus *bus)
{
	return ((Device *)bus->child)->device_id;
}
KEEP static void finalize(Device *vdev)
{
#ifndef NO_PATH
	qapi_event_send_device_deleted(vdev->id, vdev->canonical_path);
#endif
	free(vdev->canonical_path);
	vdev->canonical_path = NULL;
}

void virtio_notify(Device *vdev, Queue *vq) { set_event(vq, 1); }
void virtio_queue_host_notifier_read(Notifier *n) { set_event((void *)n, 2); }
void virtio_queue_notify(Device *vdev, int n) { set_event(vdev->vq + n, 3); }
void virtio_reset(void *vdev) { finalize(vdev); }
int virtio_set_status(Device *vdev, uint8_t status) { vdev->status = status; return 0; }
int event_notifier_set(Notifier *n) { set_event((void *)n, 4); return 0; }

#define SAY(name, type, member) printf("%s %zu\n", name, offsetof(type, member))
int main(void)
{
	SAY("vq_num", Queue, ring.num);
	SAY("vq_desc", Queue, ring.desc);
	SAY("vq_avail", Queue, ring.avail);
	SAY("vq_used", Queue, ring.used);
	SAY("vq_caches", Queue, ring.caches);
	SAY("vq_last_avail_idx", Queue, last_avail_idx);
	SAY("vq_last_avail_wrap", Queue, last_avail_wrap);
	SAY("vq_shadow_avail_idx", Queue, shadow_avail_idx);
	SAY("vq_used_idx", Queue, used_idx);
	SAY("vq_used_wrap", Queue, used_wrap);
	SAY("vq_signalled_used", Queue, signalled_used);
	SAY("vq_notification", Queue, notification);
	SAY("vq_queue_index", Queue, queue_index);
	SAY("vq_inuse", Queue, inuse);
	SAY("vq_vdev", Queue, vdev);
	SAY("vq_guest_notifier", Queue, guest_notifier);
	SAY("vq_host_notifier", Queue, host_notifier);
	printf("vq_size %zu\n", sizeof(Queue));
	SAY("elem_index", Element, index);
	SAY("elem_len", Element, len);
	SAY("elem_ndescs", Element, ndescs);
	SAY("elem_out_num", Element, out_num);
	SAY("elem_in_num", Element, in_num);
	SAY("elem_in_addr", Element, in_addr);
	SAY("elem_out_addr", Element, out_addr);
	SAY("elem_in_sg", Element, in_sg);
	SAY("elem_out_sg", Element, out_sg);
	SAY("vdev_name", Device, name);
	SAY("vdev_canonical_path", Device, canonical_path);
	SAY("vdev_guest_features", Device, guest_features);
	SAY("vdev_vq", Device, vq);
	SAY("vdev_device_id", Device, device_id);
	SAY("cache_start", Caches, desc);
	printf("cache_size %zu\n", sizeof(Cache));
	return 0;
}
