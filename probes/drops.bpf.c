/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * drops: packets that the kernel threw away, with its reason and the place: those of a traced tap,
 * and every UDP datagram.
 */

BPF_HASH(places, u64, u32, 1024);

TRACEPOINT_PROBE(skb, kfree_skb)
{
	u64 skb = (u64)args->skbaddr, place = (u64)args->location, dev = 0, head = 0, start;
	u32 zero = 0, packet = 0;
	u16 mac = 0, network = 0, queue = 0, flags = 0;
	struct skb_packet *known = skbs.lookup(&skb);
	struct xmit_state *x = xmit.lookup(&zero);
	struct packet_record *p = scratch.lookup(&zero), *sent = xmit_record.lookup(&zero);

	if (!p || !x || !sent)
		return 0;
	KREAD(head, skb, OFF_SKB_HEAD);
	KREAD(network, skb, OFF_SKB_NETWORK_HEADER);
	KREAD(mac, skb, OFF_SKB_MAC_HEADER);
	KREAD(dev, skb, OFF_SKB_DEV);
	if (known && known->dev != dev) {
		skbs.delete(&skb);	/* it was read by QEMU, and is another packet now */
		known = 0;
	}
	if (known) {
		packet = known->packet;
		skbs.delete(&skb);
#ifdef FILTER_PACKETS
		if (!packet)
			return 0;
#endif
	} else {
		u8 protocol = 0;
		if (args->protocol == 0x0800)
			KREAD(protocol, head + network, 9);
		else if (args->protocol == 0x86dd)
			KREAD(protocol, head + network, 6);
		if (protocol != 17)
			return 0;
	}
	if (x->skb == skb)
		queue = sent->record.queue;
	else
		queue = vt_interface(dev);
	vt_head(&p->record, VTRACE_KIND_DROP, bpf_ktime_get_ns(), 0, queue);
	start = head + mac;
	if (mac == 0xffff || mac >= network) {
		start = head + network;
		flags = VTRACE_F_NO_MAC;
	}
	u64 data = 0;
	KREAD(data, skb, OFF_SKB_DATA);
	KREAD(p->record.length, skb, OFF_SKB_LEN);
	p->record.length += data - start;
	vt_snap(p, skb, start, vt_linear(skb, start));
#ifdef FILTER_PACKETS
	if (!packet && !vt_match_skb(start, vt_linear(skb, start), p->record.length,
				     p->snap.vlan_tci, p->snap.vlan_proto))
		return 0;
#endif
	u32 *id = places.lookup(&place), fresh;
	if (!id) {
		fresh = vt_new_id(2);
		places.insert(&place, &fresh);
		id = places.lookup(&place);
	}
	p->record.address = id ? *id : 0;
	p->record.packet = packet ? packet : vt_new_id(1);
	p->record.flags = flags;
	p->record.seq = vt_next_seq();
#ifdef HAS_DROP_REASON
	p->record.ret = args->reason;
#endif
	vt_output(p);
	return 0;
}
