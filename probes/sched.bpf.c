/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * sched: vhost workers and vCPUs on and off their CPUs, and behind whom they wait.
 */

struct comm {
	char text[16];
};

BPF_HASH(comms, u32, struct comm, 4096);

static __always_inline void vt_comm(u32 tid, const char *from)
{
	struct comm c = {}, *known = comms.lookup(&tid);
	u64 now[2], then[2] = {};

	bpf_probe_read_kernel(&c.text, sizeof(c.text), (void *)from);
	__builtin_memcpy(now, &c, sizeof(now));
	if (known)
		__builtin_memcpy(then, known, sizeof(then));
	/* exec and prctl give a thread another name. */
	if (!known || now[0] != then[0] || now[1] != then[1])
		comms.update(&tid, &c);
}

TRACEPOINT_PROBE(sched, sched_switch)
{
	u32 prev = args->prev_pid, next = args->next_pid;
	struct thread_role *out = prev ? threads.lookup(&prev) : 0;
	struct thread_role *in = next ? threads.lookup(&next) : 0;

	if (!out && !in)
		return 0;
	u64 now = bpf_ktime_get_ns();
	if (out) {
		vt_comm(next, args->next_comm);
		struct vtrace_record *r = vt_begin(VTRACE_KIND_SCHED_OUT, now, 0);
		if (r) {
			r->tid = prev;
			r->ret = next;
			r->count = args->prev_state & 0xffff;
			if (!(args->prev_state & 0xff))
				r->flags = VTRACE_F_PREEMPTED;
			vt_submit(r);
		}
	}
	if (in) {
		vt_comm(prev, args->prev_comm);
		struct vtrace_record *r = vt_begin(VTRACE_KIND_SCHED_IN, now, 0);
		if (r) {
			r->tid = next;
			r->ret = prev;
			vt_submit(r);
		}
	}
	return 0;
}

TRACEPOINT_PROBE(sched, sched_wakeup)
{
	u32 tid = args->pid;

	if (!threads.lookup(&tid))
		return 0;
	u32 waker = (u32)bpf_get_current_pid_tgid();
	struct vtrace_record *r = vt_begin(VTRACE_KIND_SCHED_WAKE, bpf_ktime_get_ns(), 0);
	if (!r)
		return 0;
	r->tid = tid;
	r->ret = waker;
	vt_submit(r);
	return 0;
}
