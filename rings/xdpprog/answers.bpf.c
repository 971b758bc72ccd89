//go:build ignore

// SPDX-License-Identifier: Apache-2.0
//
// sluice_answers looks at what the host itself sends out of an interface, and
// gives what a server of a service on this host answers to the tap device, that
// is to the workers, as the kernel's IPVS sees it in LOCAL_OUT. Everything else
// goes on as if the program were not there.
//
// What is attached is sluice_local, which calls it by a map. The kernel empties
// a map of programs when the last process that holds it ends, however it ends:
// from then on everything goes on.
//
// Nothing newer than Linux 5.10 is used. Loops are bounded: MAX_EXTENSIONS
// IPv6 headers.

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>

#include "address.h"

#define MAX_EXTENSIONS 4

#define IPV4_MORE_OR_OFFSET 0x3fff

// In an endpoint of port 0 for zero: fragments of the protocol, which show no port.
#define FRAGMENTS 1

// Where servers answer from.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536); // twice what Update takes, as it adds before it removes
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct endpoint);
	__type(value, __u32);
} locals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} program SEC(".maps");

volatile const __u32 tap; // its index

struct header {
	struct addr src, dst;
	__u32 next; // offset of what follows, from the network header
	__u8 proto;
	__u8 fragment;
	__u8 v6;
};

static __always_inline int load(struct __sk_buff *skb, __u32 at, void *to, __u32 n)
{
	return bpf_skb_load_bytes_relative(skb, at, to, n, BPF_HDR_START_NET);
}

static __always_inline int open4(struct __sk_buff *skb, __u32 at, struct header *h)
{
	struct iphdr ip;

	if (load(skb, at, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
		return -1;
	map_v4(&h->src, ip.saddr);
	map_v4(&h->dst, ip.daddr);
	h->next = at + ip.ihl * 4;
	h->proto = ip.protocol;
	h->fragment = (ip.frag_off & bpf_htons(IPV4_MORE_OR_OFFSET)) != 0;
	h->v6 = 0;
	return 0;
}

static __always_inline int open6(struct __sk_buff *skb, __u32 at, struct header *h)
{
	struct ipv6hdr ip;
	__u8 extension[4]; // next header, length; of a fragment its offset

	if (load(skb, at, &ip, sizeof(ip)) || ip.version != 6)
		return -1;
	__builtin_memcpy(&h->src, &ip.saddr, sizeof(h->src));
	__builtin_memcpy(&h->dst, &ip.daddr, sizeof(h->dst));
	h->next = at + sizeof(ip);
	h->proto = ip.nexthdr;
	h->fragment = 0;
	h->v6 = 1;
#pragma unroll
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (h->proto != IPPROTO_HOPOPTS && h->proto != IPPROTO_ROUTING &&
		    h->proto != IPPROTO_DSTOPTS && h->proto != IPPROTO_FRAGMENT)
			break;
		if (load(skb, h->next, extension, sizeof(extension)))
			return -1;
		if (h->proto == IPPROTO_FRAGMENT) {
			h->fragment = extension[2] || extension[3] & 0xf9;
			h->next += 8;
		} else {
			h->next += (extension[1] + 1) * 8;
		}
		h->proto = extension[0];
	}
	return 0;
}

// is_local reports whether a server of a service here has the address and port.
static __always_inline int is_local(const struct addr *a, __be16 port, __u8 proto)
{
	struct endpoint key = {.addr = *a, .port = port, .proto = proto};

	if (bpf_map_lookup_elem(&locals, &key))
		return 1;
	key.port = 0;
	return bpf_map_lookup_elem(&locals, &key) != 0;
}

// answers reports whether a packet is a local server's, or an ICMP error of the
// host's about one to it. No fragment shows whose it is: the slow path gathers them.
static __always_inline int answers(struct __sk_buff *skb)
{
	struct header h = {}, quoted = {};
	struct endpoint some = {};
	__be16 ports[2];
	__u8 type;

	if (open4(skb, 0, &h) && open6(skb, 0, &h))
		return 0;
	if (h.fragment) {
		some.addr = h.src;
		some.proto = h.proto;
		some.zero = FRAGMENTS;
		return !load(skb, h.next, &type, 1) && bpf_map_lookup_elem(&locals, &some);
	}
	switch (h.proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		return !load(skb, h.next, ports, sizeof(ports)) && is_local(&h.src, ports[0], h.proto);
	case IPPROTO_ICMP:
		if (h.v6 || load(skb, h.next, &type, 1) || (type != 3 && type != 4 && type != 11) ||
		    open4(skb, h.next + 8, &quoted))
			return 0;
		break;
	case IPPROTO_ICMPV6:
		if (!h.v6 || load(skb, h.next, &type, 1) || type >= 128 ||
		    open6(skb, h.next + 8, &quoted))
			return 0;
		break;
	default:
		return 0;
	}
	return !quoted.fragment && !load(skb, quoted.next, ports, sizeof(ports)) &&
	       is_local(&quoted.dst, ports[1], quoted.proto);
}

SEC("tc")
int sluice_answers(struct __sk_buff *skb)
{
	// What came in by an interface is forwarded, and not the host's own.
	return !skb->ingress_ifindex && answers(skb) ? bpf_redirect(tap, 0) : TC_ACT_UNSPEC;
}

SEC("tc")
int sluice_local(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &program, 0);
	return TC_ACT_UNSPEC;
}

char _license[] SEC("license") = "Apache-2.0";
