// SPDX-License-Identifier: Apache-2.0
//
// The headers of a frame in an XDP program.

#ifndef SLUICE_PARSE_H
#define SLUICE_PARSE_H

#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "address.h"

#define MAX_EXTENSIONS 8

#define IPV4_MORE_OR_OFFSET 0x3fff

// What is left of a packet. left is what the IP header promised and the
// frame holds; end is the frame's, which the verifier wants to see compared.
struct cursor {
	void *pos, *end;
	__u32 left;
};

struct flow {
	struct addr src, dst;
	__be16 sport, dport;
	__u8 proto;    // 0: behind headers that this fragment does not have
	__u8 portless; // the ports are not in this packet
	__u8 v6;
	__u8 zero;
};

static __always_inline void copy_v6(struct addr *a, const struct in6_addr *v6)
{
	__builtin_memcpy(a, v6, sizeof(*a));
}

static __always_inline int is_extension(__u8 proto)
{
	return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING || proto == IPPROTO_DSTOPTS;
}

// length16 is a 16-bit length in host order. Linux 6.1's verifier takes the
// result of a byte swap for any number, and the compiler the mask for needless.
static __always_inline __u32 length16(__be16 wire)
{
	__u32 length = bpf_ntohs(wire);

	barrier_var(length);
	return length & 0xffff;
}

// open4 reads an IPv4 header and leaves c behind it; whole: the datagram has
// to be there to its end. That of a quote is not, whatever its length says.
// Returns 0 or -1.
static __always_inline int open4(struct cursor *c, struct flow *f, int whole)
{
	struct iphdr *ip = c->pos;
	__u32 header, total;

	if (c->left < sizeof(*ip) || (void *)(ip + 1) > c->end || ip->version != 4)
		return -1;
	header = ip->ihl * 4;
	if (whole) {
		total = length16(ip->tot_len);
		if (c->pos + total > c->end)
			return -1;
		c->left = total;
	}
	if (header < sizeof(*ip) || header > c->left)
		return -1;
	map_v4(&f->src, ip->saddr);
	map_v4(&f->dst, ip->daddr);
	f->proto = ip->protocol;
	f->portless = (ip->frag_off & bpf_htons(IPV4_MORE_OR_OFFSET)) != 0;
	f->v6 = 0;
	c->pos += header;
	c->left -= header;
	return 0;
}

// is_mapped tells an address that is IPv4 in the tables and nobody's on an
// IPv6 wire.
static __always_inline int is_mapped(const struct addr *a)
{
	return !a->w[0] && !a->w[1] && a->w[2] == bpf_htonl(0xffff);
}

// open6 is open4 for IPv6, without extension headers.
static __always_inline int open6(struct cursor *c, struct flow *f, int whole)
{
	struct ipv6hdr *ip = c->pos;
	__u32 payload;

	if (c->left < sizeof(*ip) || (void *)(ip + 1) > c->end || ip->version != 6)
		return -1;
	payload = length16(ip->payload_len);
	copy_v6(&f->src, &ip->saddr);
	copy_v6(&f->dst, &ip->daddr);
	if (is_mapped(&f->src) || is_mapped(&f->dst))
		return -1;
	f->proto = ip->nexthdr;
	f->portless = 0;
	f->v6 = 1;
	c->pos = ip + 1;
	c->left -= sizeof(*ip);
	if (whole) {
		if (c->pos + payload > c->end)
			return -1;
		c->left = payload;
	}
	return 0;
}

// skip_extensions walks to the transport header or to a fragment header,
// behind which nothing is looked at: f->proto is then what it names, or 0 if
// that is one more extension header. Returns 0 or -1.
static __always_inline int skip_extensions(struct cursor *c, struct flow *f)
{
	struct ipv6_opt_hdr *h;
	__u32 length;

#pragma unroll
	for (int i = 0; i < MAX_EXTENSIONS; i++) {
		if (f->proto != IPPROTO_FRAGMENT && !is_extension(f->proto))
			return 0;
		h = c->pos;
		if (c->left < 8 || c->pos + 8 > c->end)
			return -1;
		if (f->proto == IPPROTO_FRAGMENT) {
			f->proto = is_extension(h->nexthdr) ? 0 : h->nexthdr;
			f->portless = 1;
			return 0;
		}
		length = (h->hdrlen + 1) * 8;
		if (length > c->left)
			return -1;
		f->proto = h->nexthdr;
		c->pos += length;
		c->left -= length;
	}
	return f->proto == IPPROTO_FRAGMENT || is_extension(f->proto) ? -1 : 0;
}

static __always_inline int read_ports(struct cursor *c, struct flow *f)
{
	__be16 *ports = c->pos;

	if (c->left < 4 || c->pos + 4 > c->end)
		return -1;
	f->sport = ports[0];
	f->dport = ports[1];
	return 0;
}

#endif
