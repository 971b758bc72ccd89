//go:build ignore

// SPDX-License-Identifier: Apache-2.0
//
// sluice_steer tells, frame by frame, whether a packet is the load
// balancer's. What is goes to the AF_XDP socket of the receive queue it came
// in on; everything else, and everything on a queue without a socket, goes
// to the host's stack as if the program were not there.
//
// One instance runs on each interface. The tables (endpoints, addresses,
// marks) are shared by all of them and written by Steer.Update only; sockets
// and counts belong to the instance. Ports in keys are in network order.
//
// Nothing newer than Linux 5.15 is used. Loops are bounded: two VLAN tags,
// MAX_EXTENSIONS IPv6 headers, MARK_WORDS words of a set of rules.

#include <linux/bpf.h>
#include <linux/if_ether.h>

#include "parse.h"

#define MAX_MARKS 1024
#define MARK_WORDS (MAX_MARKS / 64)

// Why a frame went where it went; an index into struct count. Reasons from
// HIT_SERVICE on redirect.
enum reason {
	PASS_OTHER,     // nobody of ours: other protocols, addresses, ports
	PASS_GROUP,     // broadcast or multicast on the link
	PASS_MALFORMED, // cut short, or lengths that contradict each other
	PASS_NO_SOCKET, // ours, but no socket serves the queue
	PASS_RETURNED,  // handed back by the slow path, as the host's
	PASS_LEARNT,    // looks like a reply, and is known for the host's
	HIT_SERVICE,    // to a service's address and port
	HIT_MARK,       // matched by a mark rule
	HIT_REPLY,      // from a NAT real server's address and port
	HIT_DIRECT,     // from a service's address and port: a DR or TUN reply
	HIT_ICMP,       // an ICMP error about one of those
	HIT_FRAGMENT,   // a fragment of one of those
	HIT_IPSEC,      // AH or ESP of a flagged address
	HIT_ECHO,       // an echo request to a flagged address
	REASONS,
};

// What an address is; the value of the addresses map.
enum address_flag {
	VIP = 1,      // a service has it
	VIP_ANY = 2,  // a service with port 0 has it
	TUNNEL = 4,   // a TUN real server has it
	NAT = 8,      // a NAT real server has it
	NAT_ANY = 16, // a NAT real server with port 0 has it
	IPSEC = 32,   // its AH and ESP packets are wanted too
	ECHO = 64,    // and echo requests to it, which the host would not answer
};

// What an address, protocol and port are; the value of the endpoints map.
enum endpoint_flag {
	SERVICE = 1,
	NAT_REAL = 2,
	GUE_REAL = 4, // of UDP, where GUE packets go
};

// A packet matches a mark rule if its destination, source, interface, protocol
// and port all do. Each of the five gives the set of the rules that it matches,
// and what the sets have in common are the rules that the packet matches: a
// step for 64 rules, where comparing takes one for each. The sets of addresses
// and interfaces are found by longest prefix, so that of a prefix holds
// the rules of the shorter ones around it too.
//
// A row is such a set, 64 ports, or what the table as a whole is like.
struct mark_row {
	union {
		__u64 word[MARK_WORDS];
		__u16 port_class[MARK_WORDS * 4];
		struct {
			__u32 words; // of each set; 0: there are no rules
			__u32 generation; // of this table's entries in mark_nets
			__u32 by_source, by_interface; // whether any rule looks at them
		};
	};
};

// Where rows of a mark table are.
enum mark_rows {
	MARK_STATE = 0,
	MARK_PROTOCOLS = 1, // TCP, UDP, SCTP, not known; then the same for IPv6
	MARK_PORTS = MARK_PROTOCOLS + 8, // the classes of all ports
	MARK_CLASSES = MARK_PORTS + 65536 / (MARK_WORDS * 4), // the set of each class
	MARK_ROWS = MARK_CLASSES + 2 * MAX_MARKS + 1,
};

// What a key of mark_nets is about.
enum mark_side {
	MARK_DESTINATION,
	MARK_SOURCE,
	MARK_INTERFACE, // its index is the address's first word
};

struct mark_net {
	__u32 length; // of what follows, in bits
	__u32 generation;
	enum mark_side side;
	struct addr addr;
};

struct count {
	__u64 packets[16]; // by reason; a power of two above REASONS
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); // set at load
	__type(key, struct endpoint);
	__type(value, enum endpoint_flag);
} endpoints SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1); // set at load
	__type(key, struct addr);
	__type(value, enum address_flag);
} addresses SEC(".maps");

// The networks and interfaces of the rules, each with the set of the rules that
// hold it.
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 2 * 3 * (MAX_MARKS + 1)); // two generations
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct mark_net);
	__type(value, struct mark_row);
} mark_nets SEC(".maps");

// The rules are replaced as a whole, by another inner map, so that no packet
// meets half of a table. Its entries are in mark_nets before, and those of the
// old one until no packet looks for them.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, MARK_ROWS);
		__type(key, enum mark_rows);
		__type(value, struct mark_row);
	});
} marks SEC(".maps");

// By receive queue.
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, 1); // set at load
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

// By receive queue, plus one; row 0 is of queues beyond the last.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2); // set at load
	__type(key, __u32);
	__type(value, struct count);
} counts SEC(".maps");

// Flows that look like replies and are the host's, by the value of learning when
// that was learnt: those of another value are forgotten. A flow's portless and zero are 0.
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1); // set at load
	__type(key, struct flow);
	__type(value, __u32);
} learnt SEC(".maps");

// Not 0: flows are learnt.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} learning SEC(".maps");

// Source address of frames that the slow path has handed back to the host. Where
// the stack takes frames (generic mode) they come here a second time. Zero: never.
volatile const __u8 returned[ETH_ALEN];

// may_be_served reports whether f's protocol has ports, or is not known.
static __always_inline int may_be_served(const struct flow *f)
{
	return f->proto == IPPROTO_TCP || f->proto == IPPROTO_UDP || f->proto == IPPROTO_SCTP ||
	       (f->v6 && f->portless && !f->proto);
}

static __always_inline __u32 address(const struct addr *a)
{
	__u32 *flags = bpf_map_lookup_elem(&addresses, a);

	return flags ? *flags : 0;
}

// is_endpoint reports whether a:port, or a with any port if some entry of it
// has port 0, is what flag says.
static __always_inline int is_endpoint(const struct addr *a, __be16 port, __u8 proto,
				       __u32 flag, __u32 any)
{
	struct endpoint key = {.addr = *a, .port = port, .proto = proto};
	__u32 *flags = bpf_map_lookup_elem(&endpoints, &key);

	if (flags && *flags & flag)
		return 1;
	if (!any)
		return 0;
	key.port = 0;
	flags = bpf_map_lookup_elem(&endpoints, &key);
	return flags && *flags & flag;
}

// is_marked reports whether any rule matches. What the packet does not show
// (ports of a fragment) is taken to match: the slow path decides. It is out of
// line, so that the program has one copy.
static __noinline int is_marked(const struct flow *f, __u32 ifindex)
{
	const struct mark_row *state, *to, *from, *iface, *proto, *ports;
	struct mark_net net = {.length = 8 * (sizeof(net) - sizeof(net.length))};
	__u16 port = bpf_ntohs(f->dport);
	__u32 zero = 0, at = MARK_STATE;
	void *rows;

	rows = bpf_map_lookup_elem(&marks, &zero);
	if (!rows)
		return 0;
	state = bpf_map_lookup_elem(rows, &at);
	if (!state || !state->words)
		return 0;
	net.generation = state->generation;
	net.side = MARK_DESTINATION;
	net.addr = f->dst;
	to = from = iface = bpf_map_lookup_elem(&mark_nets, &net);
	if (!to)
		return 0;
	if (state->by_source) {
		net.side = MARK_SOURCE;
		net.addr = f->src;
		from = bpf_map_lookup_elem(&mark_nets, &net);
	}
	if (state->by_interface) {
		net.side = MARK_INTERFACE;
		net.addr.w[0] = ifindex;
		iface = bpf_map_lookup_elem(&mark_nets, &net);
	}
	if (!from || !iface)
		return 0;
	at = MARK_PROTOCOLS + (f->v6 ? 4 : 0) +
	     (f->proto == IPPROTO_TCP ? 0 : f->proto == IPPROTO_UDP ? 1 : f->proto == IPPROTO_SCTP ? 2 : 3);
	proto = ports = bpf_map_lookup_elem(rows, &at);
	if (!proto)
		return 0;
	if (!f->portless) {
		at = MARK_PORTS + port / (MARK_WORDS * 4);
		ports = bpf_map_lookup_elem(rows, &at);
		if (!ports)
			return 0;
		at = MARK_CLASSES + ports->port_class[port % (MARK_WORDS * 4)];
		ports = bpf_map_lookup_elem(rows, &at);
		if (!ports)
			return 0;
	}
	for (__u32 i = 0; i < MARK_WORDS && i < state->words; i++)
		if (to->word[i] & from->word[i] & iface->word[i] & proto->word[i] & ports->word[i])
			return 1;
	return 0;
}

// is_about_real reports whether the packet that an ICMP error quotes was sent to
// a real server by the director: to the server of a connection, translated, or
// in a tunnel. What the host itself sends to a server's other ports is not. The
// ports of f are read, unless it is portless.
static __always_inline int is_about_real(const struct flow *f)
{
	__u32 to = address(&f->dst);

	switch (f->proto) {
	case IPPROTO_IPIP:
	case IPPROTO_IPV6:
	case IPPROTO_GRE:
		return to & TUNNEL;
	case IPPROTO_AH:
	case IPPROTO_ESP:
		return to & NAT && to & IPSEC;
	}
	if (!(to & (NAT | TUNNEL)) || !may_be_served(f))
		return 0;
	return f->portless ||
	       is_endpoint(&f->dst, f->dport, f->proto, NAT_REAL | GUE_REAL, to & NAT_ANY);
}

// icmp decides on an ICMP packet: kernel rows K-ICMP-1 to K-ICMP-6.
// to is what the outer destination is. The quoted packet went the other way,
// so for the mark rules it is turned round.
static __always_inline enum reason icmp(struct xdp_md *ctx, struct cursor *c,
					struct flow *f, __u32 to)
{
	struct flow request = {};
	__u8 *type = c->pos;

	if (c->left < 8 || c->pos + 8 > c->end)
		return PASS_MALFORMED;
	if (*type == (f->v6 ? 128 : 8))
		return to & ECHO ? HIT_ECHO : PASS_OTHER;
	if (f->v6 ? *type >= 128 : *type != 3 && *type != 4 && *type != 11)
		return PASS_OTHER;
	if (to & VIP)
		return HIT_ICMP;
	c->pos += 8;
	c->left -= 8;
	if (f->v6) {
		if (open6(c, f, 0))
			return PASS_OTHER;
		if (f->proto == IPPROTO_FRAGMENT || is_extension(f->proto)) {
			f->proto = 0; // not worth a second walk: the addresses tell
			f->portless = 1;
		}
	} else if (open4(c, f, 0)) {
		return PASS_OTHER;
	}
	if (address(&f->src) & VIP)
		return HIT_ICMP;
	if (may_be_served(f) && !f->portless && read_ports(c, f))
		return PASS_OTHER;
	if (is_about_real(f))
		return HIT_ICMP;
	if (!may_be_served(f))
		return PASS_OTHER;
	request.src = f->dst;
	request.dst = f->src;
	request.dport = f->sport;
	request.proto = f->proto;
	request.portless = f->portless;
	request.v6 = f->v6;
	return is_marked(&request, ctx->ingress_ifindex) ? HIT_ICMP : PASS_OTHER;
}

// reply is hit, unless the flow is known for the host's.
static __always_inline enum reason reply(const struct flow *f, enum reason hit)
{
	__u32 zero = 0, *now = bpf_map_lookup_elem(&learning, &zero), *then;

	if (!now || !*now)
		return hit;
	then = bpf_map_lookup_elem(&learnt, f);
	return then && *then == *now ? PASS_LEARNT : hit;
}

static __always_inline int is_returned(const struct ethhdr *eth)
{
	for (int i = 0; returned[0] && i < ETH_ALEN; i++)
		if (eth->h_source[i] != returned[i])
			return 0;
	return returned[0] != 0;
}

static __noinline enum reason decide(struct xdp_md *ctx)
{
	struct cursor c = {.pos = (void *)(long)ctx->data, .end = (void *)(long)ctx->data_end};
	struct ethhdr *eth = c.pos;
	struct flow f = {};
	__u32 from, to;
	__be16 type;

	if ((void *)(eth + 1) > c.end)
		return PASS_MALFORMED;
	if (eth->h_dest[0] & 1)
		return PASS_GROUP;
	if (is_returned(eth))
		return PASS_RETURNED;
	type = eth->h_proto;
	c.pos = eth + 1;
#pragma unroll
	for (int i = 0; i < 2; i++) {
		__be16 *tag = c.pos; // control information, then the next type

		if (type != bpf_htons(ETH_P_8021Q) && type != bpf_htons(ETH_P_8021AD))
			break;
		if (c.pos + 4 > c.end)
			return PASS_MALFORMED;
		type = tag[1];
		c.pos += 4;
	}

	c.left = 0xffff;
	if (type == bpf_htons(ETH_P_IP)) {
		if (open4(&c, &f, 1))
			return PASS_MALFORMED;
		if (f.proto == IPPROTO_ICMPV6)
			return PASS_OTHER;
	} else if (type == bpf_htons(ETH_P_IPV6)) {
		if (open6(&c, &f, 1) || skip_extensions(&c, &f))
			return PASS_MALFORMED;
		if (f.proto == IPPROTO_ICMP)
			return PASS_OTHER;
	} else {
		return PASS_OTHER;
	}

	from = address(&f.src);
	to = address(&f.dst);
	switch (f.proto) {
	case IPPROTO_AH:
	case IPPROTO_ESP: // K-PROTO-AH/ESP
		if ((to & VIP && to & IPSEC) ||
		    (from & NAT && from & IPSEC))
			return HIT_IPSEC;
		return PASS_OTHER;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		if (f.portless) // a big ping, or an error about a connection
			return to & VIP || from & NAT ? HIT_FRAGMENT : PASS_OTHER;
		return icmp(ctx, &c, &f, to);
	}
	if (!may_be_served(&f))
		return PASS_OTHER;
	if (f.portless) // K-PATH-7: no fragment shows whose it is, the slow path gathers them
		return to & VIP || from & NAT || is_marked(&f, ctx->ingress_ifindex) ?
			       HIT_FRAGMENT : PASS_OTHER;
	if (read_ports(&c, &f))
		return PASS_MALFORMED;
	if (to & VIP &&
	    is_endpoint(&f.dst, f.dport, f.proto, SERVICE, to & VIP_ANY))
		return HIT_SERVICE;
	if (from & NAT &&
	    is_endpoint(&f.src, f.sport, f.proto, NAT_REAL, from & NAT_ANY))
		return reply(&f, HIT_REPLY);
	if (from & VIP && // K-CONN-4: accounted, though not rewritten
	    is_endpoint(&f.src, f.sport, f.proto, SERVICE, from & VIP_ANY))
		return reply(&f, HIT_DIRECT);
	return is_marked(&f, ctx->ingress_ifindex) ? HIT_MARK : PASS_OTHER;
}

SEC("xdp")
int sluice_steer(struct xdp_md *ctx)
{
	__u32 queue = ctx->rx_queue_index, row = queue + 1, beyond = 0;
	enum reason reason = decide(ctx);
	struct count *count;
	int verdict = XDP_PASS;

	if (reason >= HIT_SERVICE) {
		verdict = bpf_redirect_map(&sockets, queue, XDP_PASS);
		if (verdict != XDP_REDIRECT)
			reason = PASS_NO_SOCKET;
	}
	count = bpf_map_lookup_elem(&counts, &row);
	if (!count)
		count = bpf_map_lookup_elem(&counts, &beyond);
	if (count)
		count->packets[reason & 15]++;
	return verdict;
}

char _license[] SEC("license") = "Apache-2.0";
