/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a probe takes of an skb.
 */

#ifdef OFF_SKB_HEAD	/* only where a program that looks at packets can run */

/* Offload state of an skb in the terms of virtio_net_hdr, and its first bytes. */
static __always_inline void vt_snap(struct packet_record *p, u64 skb, u64 start, u32 room)
{
	u64 head = 0;
	u32 end = 0;
	u16 csum_start = 0, headroom;
	u8 summed = 0;

	__builtin_memset(&p->snap, 0, sizeof(p->snap));
	KREAD(head, skb, OFF_SKB_HEAD);
	KREAD(summed, skb, OFF_SKB_IP_SUMMED);
	summed = (summed >> SHIFT_SKB_IP_SUMMED) & 3;
	if (summed == 3) {
		p->snap.hdr_flags = 1;
		KREAD(csum_start, skb, OFF_SKB_CSUM_START);
		KREAD(p->snap.csum_offset, skb, OFF_SKB_CSUM_OFFSET);
		headroom = start - head;
		p->snap.csum_start = csum_start - headroom;
	} else if (summed == 1) {
		p->snap.hdr_flags = 2;
	}
	KREAD(end, skb, OFF_SKB_END);
	KREAD(p->snap.gso_size, head + end, OFF_SHINFO_GSO_SIZE);
	if (p->snap.gso_size) {
		u32 type = 0;
		KREAD(type, head + end, OFF_SHINFO_GSO_TYPE);
		if (type & GSO_TCPV4)
			p->snap.gso_type = 1;
		else if (type & GSO_TCPV6)
			p->snap.gso_type = 4;
		else if (type & GSO_UDP_L4)
			p->snap.gso_type = 5;
	}
	KREAD(p->snap.vlan_tci, skb, OFF_SKB_VLAN_TCI);
	KREAD(p->snap.vlan_proto, skb, OFF_SKB_VLAN_PROTO);
	p->snap.vlan_proto = bpf_ntohs(p->snap.vlan_proto);
	if (!p->snap.vlan_proto)
		p->snap.vlan_tci = 0;
	if (room > SNAP_BYTES)
		room = SNAP_BYTES;
	if (!room)
		return;
	/* Bytes behind those captured may be of an earlier packet: they never leave (captured says). */
	if (room == SNAP_BYTES) {
		if (bpf_probe_read_kernel(p->bytes, SNAP_BYTES, (void *)start))
			return;
	} else if (bpf_probe_read_kernel(p->bytes, BELOW(room, SNAP_BYTES), (void *)start)) {
		return;
	}
	p->snap.captured = room;
}

/* Bytes of the linear part behind `start`. */
static __always_inline u32 vt_linear(u64 skb, u64 start)
{
	u64 data = 0;
	u32 len = 0, data_len = 0;

	KREAD(data, skb, OFF_SKB_DATA);
	KREAD(len, skb, OFF_SKB_LEN);
	KREAD(data_len, skb, OFF_SKB_DATA_LEN);
	if (data_len > len)
		return 0;
	return len - data_len + (u32)(data - start);
}

#endif
