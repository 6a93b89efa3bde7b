/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * exits: why vCPUs were out of the guest, for how long, for which port or address, and how much of it
 * they spent in user space; interrupts that KVM was told of.
 */

#define MMIO_PAGE 4096

BPF_HASH(exit_states, u32, struct exit_state, 16384);
BPF_HASH(exits, struct exit_key, struct exit_total, 65536);
/* What finds no place there, without its address: sums by reason stay right. */
BPF_HASH(exits_rest, struct exit_key, struct exit_total, 8192);
BPF_HASH(interrupts, struct interrupt_key, u64, 8192);
BPF_ARRAY(unkept, u64, UNKEPT_COUNT);

static __always_inline void vt_unkept(u32 which)
{
	u64 *n = unkept.lookup(&which);
	if (n)
		lock_xadd(n, 1);
}

TRACEPOINT_PROBE(kvm, kvm_exit)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = (u32)id;

	if (!vt_vm_wanted(id >> 32))
		return 0;
	struct exit_state state = {
		.time = bpf_ktime_get_ns(), .reason = args->exit_reason, .svm = args->isa == 2,
	};
	if (!threads.lookup(&tid)) {
		struct thread_role role = { .tgid = id >> 32, .role = 2 };
		threads.update(&tid, &role);
	}
	exit_states.update(&tid, &state);
	return 0;
}

/* The exit of this thread that has not ended; 0 if there is none. */
static __always_inline struct exit_state *vt_outside(void)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct exit_state *e = exit_states.lookup(&tid);
	return e && e->time ? e : 0;
}

/* An exit may touch several addresses (a string instruction, a split access): the first stands for it. */
static __always_inline void vt_touched(u32 io, u32 write, u64 address)
{
	struct exit_state *e = vt_outside();
	if (!e || e->io)
		return;
	e->io = io;
	e->write = write;
	if (!e->address)
		e->address = address;
}

#ifdef HAVE_kvm_pio
TRACEPOINT_PROBE(kvm, kvm_pio)
{
	vt_touched(EXIT_PIO, args->rw != 0, args->port);
	return 0;
}
#endif

#ifdef HAVE_kvm_mmio
TRACEPOINT_PROBE(kvm, kvm_mmio)
{
	/* 0: a read that goes to user space, 1: a read, 2: a write. */
	vt_touched(EXIT_MMIO, args->type == 2, args->gpa);
	return 0;
}
#endif

#ifdef HAVE_kvm_fast_mmio
TRACEPOINT_PROBE(kvm, kvm_fast_mmio)
{
	vt_touched(EXIT_MMIO, 1, args->gpa);
	return 0;
}
#endif

#ifdef HAVE_kvm_userspace_exit
TRACEPOINT_PROBE(kvm, kvm_userspace_exit)
{
	struct exit_state *e = vt_outside();
	/* An access in pieces goes there and back several times before the next entry: it counts once. */
	if (e && !e->user)
		e->user = bpf_ktime_get_ns();
	return 0;
}
#endif

static __always_inline struct exit_total *vt_exit_total(struct exit_key *key)
{
	struct exit_total fresh = {}, *total = exits.lookup(key);
	if (total)
		return total;
	exits.insert(key, &fresh);
	total = exits.lookup(key);
	if (total)
		return total;
	key->address = 0;
	total = exits_rest.lookup(key);
	if (total)
		return total;
	exits_rest.insert(key, &fresh);
	return exits_rest.lookup(key);
}

TRACEPOINT_PROBE(kvm, kvm_entry)
{
	u64 id = bpf_get_current_pid_tgid();
	u32 tid = (u32)id;
	struct exit_state *e = exit_states.lookup(&tid);

	if (!e || !e->time)
		return 0;
	u64 now = bpf_ktime_get_ns(), span = now - e->time;
	struct exit_key key = {
		.tid = tid, .tgid = id >> 32, .reason = e->reason, .svm = e->svm,
		.io = e->io, .write = e->write,
	};
	if (e->io == EXIT_PIO)
		key.address = e->address;
	if (e->io == EXIT_MMIO)
		key.address = e->address & ~(u64)(MMIO_PAGE - 1);
	struct exit_total *total = vt_exit_total(&key);
	if (total) {
		total->count++;
		total->ns += span;
		if (e->user) {
			total->user_count++;
			total->user_ns += now - e->user;
		}
	} else {
		vt_unkept(UNKEPT_EXITS);
	}
#ifdef EACH_EXIT
	u32 wanted = 1;
#else
	u32 wanted = e->queue;
#endif
	struct vtrace_record *r = wanted ? vt_begin(VTRACE_KIND_EXIT, now, e->queue) : 0;
	if (r) {
		r->ret = e->reason;
		r->address = e->address;
		r->span = span > 0xffffffff ? 0xffffffff : span;
		if (e->svm)
			r->flags = VTRACE_F_SVM;
		vt_submit(r);
	}
	e->time = 0;
	return 0;
}

/* Interrupts come from any thread: QEMU's, a kernel worker's, one that a softirq interrupted. */
static __always_inline void vt_interrupt(struct interrupt_key *key)
{
	u64 zero = 0, *n = interrupts.lookup(key);
	if (!n) {
		interrupts.insert(key, &zero);
		n = interrupts.lookup(key);
	}
	if (n)
		lock_xadd(n, 1);
	else
		vt_unkept(UNKEPT_INTERRUPTS);
}

#ifdef HAVE_kvm_set_irq
TRACEPOINT_PROBE(kvm, kvm_set_irq)
{
	struct interrupt_key key = { .tgid = bpf_get_current_pid_tgid() >> 32, .gsi = args->gsi };
	if (args->level == 1)
		vt_interrupt(&key);
	return 0;
}
#endif

#ifdef HAVE_kvm_msi_set_irq
TRACEPOINT_PROBE(kvm, kvm_msi_set_irq)
{
	struct interrupt_key key = {
		.tgid = bpf_get_current_pid_tgid() >> 32, .msi = 1,
		.address = args->address, .data = args->data,
	};
	vt_interrupt(&key);
	return 0;
}
#endif
