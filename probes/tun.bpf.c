/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tun: packets into and out of the tap, with their first bytes.
 */

int vt_xmit_entry(struct pt_regs *ctx)
{
	u64 now = bpf_ktime_get_ns();
	u64 skb = PT_REGS_PARM1(ctx), dev = PT_REGS_PARM2(ctx), tfile = 0, data = 0;
	u32 zero = 0;
	u16 index = 0, id;
	struct xmit_state *x = xmit.lookup(&zero);
	struct packet_record *p = xmit_record.lookup(&zero);

	if (!x || !p)
		return 0;
	x->skb = 0;
	KREAD(index, skb, OFF_SKB_QUEUE_MAPPING);
	KREAD(tfile, dev, OFF_DEV_PRIV + OFF_TUN_TFILES + 8 * (u64)index);
	id = tfile ? vt_tap_queue(tfile, dev, index) : vt_interface(dev);
	if (!id)
		return 0;
	vt_called(CALL_XMIT_ENTRY);
	struct skb_packet held = {};
	held.dev = dev;
	vt_head(&p->record, VTRACE_KIND_ENQUEUE, now, 0, id);
	KREAD(p->record.length, skb, OFF_SKB_LEN);
	KREAD(data, skb, OFF_SKB_DATA);
	vt_snap(p, skb, data, vt_linear(skb, data));
#ifdef FILTER_PACKETS
	if (!vt_match_skb(data, vt_linear(skb, data), p->record.length, p->snap.vlan_tci,
			  p->snap.vlan_proto)) {
		skbs.update(&skb, &held);
		return 0;
	}
#endif
	if (tfile) {
		u32 producer = 0, consumer = 0, size = 0;
		u64 ring = tfile + OFF_TFILE_TX_RING, slots = 0, slot = 0;
		KREAD(producer, ring, OFF_RING_PRODUCER);
		KREAD(consumer, ring, OFF_RING_CONSUMER_HEAD);
		KREAD(size, ring, OFF_RING_SIZE);
		u32 waiting = producer >= consumer ? producer - consumer : producer + size - consumer;
		if (!waiting && size) {
			KREAD(slots, ring, OFF_RING_QUEUE);
			KREAD(slot, slots, 8 * (u64)producer);
			if (slot)
				waiting = size;
		}
		p->record.count = waiting > 0xffff ? 0xffff : waiting;
	}
	p->record.packet = vt_new_id(1);
	p->record.seq = vt_next_seq();
	held.packet = p->record.packet;
	skbs.update(&skb, &held);
	x->skb = skb;
	return 0;
}

int vt_xmit_return(struct pt_regs *ctx)
{
	int ret = PT_REGS_RC(ctx);
	u32 zero = 0;
	struct xmit_state *x = xmit.lookup(&zero);
	struct packet_record *p = xmit_record.lookup(&zero);

	if (!x || !p || !x->skb)
		return 0;
	vt_called(CALL_XMIT_RETURN);
	if (ret) {
		u64 skb = x->skb;
		skbs.delete(&skb);
		p->record.kind = VTRACE_KIND_REFUSE;
		p->record.ret = ret;
	}
	x->skb = 0;
	vt_output(p);
	return 0;
}

int vt_recv_entry(struct pt_regs *ctx)
{
	u64 msg = PT_REGS_PARM2(ctx), skb = 0;
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct task_state *t = tasks.lookup(&tid);

	if (!t || !t->queue)
		return 0;
	KREAD(skb, msg, OFF_MSG_CONTROL);
	struct skb_packet *packet = skb ? skbs.lookup(&skb) : 0;
	t->packet = packet ? packet->packet : 0;
#ifdef FILTER_PACKETS
	if (!t->packet) {
		vt_pops_drop(MAX_HELD);
		if (packet)
			skbs.delete(&skb);
		return 0;
	}
	vt_pops_keep();
#endif
	vt_called(CALL_RECV_ENTRY);
	t->start = bpf_ktime_get_ns();
	t->length = PT_REGS_PARM3(ctx);
	t->receiving = t->queue;
	if (packet)
		skbs.delete(&skb);
	return 0;
}

int vt_recv_return(struct pt_regs *ctx)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct task_state *t = tasks.lookup(&tid);

	if (!t || !t->receiving)
		return 0;
	u16 queue = t->receiving;
	t->receiving = 0;
	vt_called(CALL_RECV_RETURN);
	u64 now = bpf_ktime_get_ns(), span = now - t->start;
	struct vtrace_record *r = vt_begin(VTRACE_KIND_RECV, now, queue);
	if (!r)
		return 0;
	r->packet = t->packet;
	r->length = t->length;
	r->ret = PT_REGS_RC(ctx);
	r->span = span > 0xffffffff ? 0xffffffff : span;
	vt_submit(r);
	return 0;
}

int vt_send_entry(struct pt_regs *ctx)
{
	u64 msg = PT_REGS_PARM2(ctx), control = 0;
	u16 batch[2] = {};
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct task_state *t = tasks.lookup(&tid);

	if (!t || !t->queue)
		return 0;
	vt_called(CALL_SEND_ENTRY);
	t->start = bpf_ktime_get_ns();
	t->length = PT_REGS_PARM3(ctx);
	t->send_queue = t->queue;
	t->send_index = 0;
	t->send_count = 1;
	t->send_flags = 0;
	KREAD(control, msg, OFF_MSG_CONTROL);
	if (control) {
		KREAD(batch, control, 0);	/* struct tun_msg_ctl: u16 type, u16 num */
		if (batch[0] == 2) {		/* TUN_MSG_PTR */
			t->send_count = batch[1];
			t->send_flags = VTRACE_F_BATCH;
		}
	}
	t->sending = 1;
	return 0;
}

int vt_send_return(struct pt_regs *ctx)
{
	u32 tid = (u32)bpf_get_current_pid_tgid();
	struct task_state *t = tasks.lookup(&tid);

	if (!t || !t->sending)
		return 0;
	t->sending = 0;
	t->send_match = 0;
	t->send_pops = 0;
	vt_called(CALL_SEND_RETURN);
	u64 now = bpf_ktime_get_ns(), span = now - t->start;
	struct vtrace_record *r = vt_begin(VTRACE_KIND_SEND, now, t->send_queue);
	if (!r)
		return 0;
	r->count = t->send_count;
	r->length = t->length;
	r->flags = t->send_flags;
	r->ret = PT_REGS_RC(ctx);
	r->span = span > 0xffffffff ? 0xffffffff : span;
	vt_submit(r);
	return 0;
}

TRACEPOINT_PROBE(net, netif_receive_skb)
{
	u32 tid = (u32)bpf_get_current_pid_tgid(), zero = 0;
	struct task_state *t = tasks.lookup(&tid);

	if (!t || !t->sending)
		return 0;
	u64 skb = (u64)args->skbaddr, dev = 0, head = 0;
	u16 mac = 0;
	KREAD(dev, skb, OFF_SKB_DEV);
	struct queue_info *info = vt_info(t->send_queue);
	/* A bridge above the tap receives the same frame again, and a softirq that interrupts us has
	 * frames of other devices: only the tap's own count. */
	if (!info || !dev || !vt_is_dev(info, dev))
		return 0;
	struct packet_record *p = scratch.lookup(&zero);
	if (!p)
		return 0;
	u16 index = t->send_index++;
#ifdef FILTER_PACKETS
	if (index >= 64 || !(t->send_match >> (index & 63) & 1))
		return 0;
#endif
	vt_head(&p->record, VTRACE_KIND_DELIVER, bpf_ktime_get_ns(), vt_next_seq(),
		t->send_queue);
	p->record.packet = vt_new_id(1);
	p->record.count = index;
	KREAD(head, skb, OFF_SKB_HEAD);
	KREAD(mac, skb, OFF_SKB_MAC_HEADER);
	KREAD(p->record.length, skb, OFF_SKB_LEN);
	u64 data = 0, start = head + mac;
	KREAD(data, skb, OFF_SKB_DATA);
	p->record.length += data - start;
	vt_snap(p, skb, start, vt_linear(skb, start));
	vt_output(p);
	return 0;
}
