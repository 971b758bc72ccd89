//go:build ignore

// SPDX-License-Identifier: Apache-2.0
//
// sluice_enter has what is written to the tap device come in by the NIC that it
// came in by before: the stack sees it there, as if nothing had happened. The
// frame's outer VLAN tag says which NIC that was, and is taken off.
//
// Nothing newer than Linux 5.10 is used.

#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

#define VLAN_ID 0xfff

// The kernel's indexes of the NICs, by number.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); // set at load
	__type(key, __u32);
	__type(value, __u32);
} nics SEC(".maps");

SEC("tc")
int sluice_enter(struct __sk_buff *skb)
{
	__u32 number = skb->vlan_tci & VLAN_ID;
	__u32 *nic = bpf_map_lookup_elem(&nics, &number);

	if (!skb->vlan_present || !nic || bpf_skb_vlan_pop(skb))
		return TC_ACT_SHOT;
	return bpf_redirect(*nic, BPF_F_INGRESS);
}

char _license[] SEC("license") = "Apache-2.0";
