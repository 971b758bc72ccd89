//go:build ignore

// SPDX-License-Identifier: Apache-2.0
//
// TCP clients and a TCP server that cost next to nothing, to measure how many
// connections a second a director makes between them. open is run by
// BPF_PROG_TEST_RUN with live frames and sends a SYN for each connection that is
// to begin. client and server run where packets arrive and answer each with one
// more, made of nothing but it:
//
//	client           server
//	SYN         ->
//	            <-   SYN, ACK
//	ACK, 1 byte ->
//	            <-   ACK, 1 byte
//	FIN, ACK    ->
//	            <-   FIN, ACK
//	ACK         ->
//
// There are so many connections at a time as there are slots: open waits for a
// slot to be free, as a client waits for its answer. A connection's slot is in
// its sequence numbers, those of both ends, which no director changes.

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct segment {
	struct ethhdr eth;
	struct iphdr ip;
	struct tcphdr tcp;
	__u8 data;
} __attribute__((packed, aligned(2)));

// The shortest frame of Ethernet in bytes, and the words of 8 bytes that hold a
// segment.
#define FRAME 60
#define WORDS 7

#define SLOTS 256
#define SLOT_SHIFT 16 // of the slot in a sequence number
#define PATIENCE 20000000ULL // ns until a connection is given up
#define PORT_BITS 15
#define FIRST_PORT 16384

// Set before it is loaded.
volatile const __u64 syn[WORDS]; // the first SYN's frame
volatile const __u32 out_ifindex;
volatile const __u32 first_client; // its address in host order; each has 2^PORT_BITS ports
volatile const __u32 connections;  // how many differ
volatile const __be32 virtual_addr, server_addr;
volatile const __be16 virtual_port, server_port;
volatile const bool syn_only; // a connection is done when its SYN has arrived

struct slot {
	__u64 began; // ns
	__u32 number; // of its connection
	__u32 busy;
};

struct slot slots[SLOTS];
__u32 at; // the slot that open looks at next

// Counts. Each program runs on one CPU at a time.
__u32 number; // connections that were begun
__u64 done;   // connections that came to their end
__u64 failed; // that did not
__u64 wrong;  // packets of neither this client nor this server

static __always_inline __u32 words(const void *data, int n, __u32 sum)
{
	const __u16 *word = data;

#pragma unroll
	for (int i = 0; i < n; i++)
		sum += word[i];
	return sum;
}

static __always_inline __u16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

// finish makes a segment with data bytes, 0 or 1, right.
static __always_inline void finish(struct segment *s, __u16 data)
{
	__u16 length = sizeof(s->tcp) + data;
	__u32 sum;

	s->data = 'x' * data;
	s->ip.tot_len = bpf_htons(sizeof(s->ip) + length);
	s->ip.ttl = 64;
	s->ip.check = 0;
	s->ip.check = folded(words(&s->ip, 10, 0));
	s->tcp.check = 0;
	sum = words(&s->ip.saddr, 4, bpf_htons(IPPROTO_TCP) + bpf_htons(length));
	sum = words(&s->tcp, 10, sum + bpf_htons((__u16)s->data << 8));
	s->tcp.check = folded(sum);
}

#define FLAGS(s) (((__u8 *)&(s)->tcp)[13])
#define FIN 1
#define SYN 2
#define PSH 8
#define ACK 16

// answer makes the segment that a frame holds its answer, and sends it back. By
// XDP_TX a veth's peer without an XDP program would not be woken.
static __always_inline int answer(struct xdp_md *ctx, struct segment *s, __u8 flags, __u16 data)
{
	__u8 mac[ETH_ALEN];
	__be32 addr = s->ip.saddr, seq = s->tcp.seq;
	__be16 port = s->tcp.source;
	__u32 got = bpf_ntohs(s->ip.tot_len) - sizeof(s->ip) - sizeof(s->tcp);

	if (FLAGS(s) & (SYN | FIN))
		got++;
	__builtin_memcpy(mac, s->eth.h_source, ETH_ALEN);
	__builtin_memcpy(s->eth.h_source, s->eth.h_dest, ETH_ALEN);
	__builtin_memcpy(s->eth.h_dest, mac, ETH_ALEN);
	s->ip.saddr = s->ip.daddr;
	s->ip.daddr = addr;
	s->tcp.source = s->tcp.dest;
	s->tcp.dest = port;
	s->tcp.seq = FLAGS(s) & ACK ? s->tcp.ack_seq : seq; // a server begins where its client does
	s->tcp.ack_seq = bpf_htonl(bpf_ntohl(seq) + got);
	FLAGS(s) = flags;
	finish(s, data);
	return bpf_redirect(ctx->ingress_ifindex, 0);
}

// segment returns a TCP segment, NULL if the frame holds none. The kernel takes
// the padding off what it forwards; it comes back here.
static __always_inline struct segment *segment(struct xdp_md *ctx)
{
	struct segment *s = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	if ((void *)&s->data > end || s->eth.h_proto != bpf_htons(ETH_P_IP) || s->ip.protocol != IPPROTO_TCP || s->ip.ihl != 5)
		return NULL;
	if ((void *)s + FRAME > end) {
		if (bpf_xdp_adjust_tail(ctx, FRAME - (int)(end - (void *)s)))
			return NULL;
		s = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
	}
	return (void *)s + FRAME > end ? NULL : s;
}

// release frees the slot that a sequence number names, if it is still that of
// the connection of a client's address and port.
static __always_inline void release(__be32 seq, __be32 addr, __be16 port)
{
	struct slot *s = &slots[bpf_ntohl(seq) >> SLOT_SHIFT & (SLOTS - 1)];
	__u32 of = (bpf_ntohl(addr) - first_client) << PORT_BITS | (bpf_ntohs(port) - FIRST_PORT);

	if (s->busy && s->number == of) {
		s->busy = 0;
		done++;
	}
}

SEC("xdp")
int open(struct xdp_md *ctx)
{
	__u64 *word = (void *)(long)ctx->data, now = bpf_ktime_get_ns();
	struct segment *s = (void *)word;
	__u32 slot = at++ & (SLOTS - 1), n = number;

	if ((void *)word + FRAME > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	if (slots[slot].busy) {
		if (now - slots[slot].began < PATIENCE)
			return XDP_DROP;
		failed++;
		slots[slot].busy = 0;
	}
	if (n == connections && syn_only)
		return XDP_DROP; // a second SYN from where one came is no new connection
	if (n == connections)
		n = 0; // all are in TIME_WAIT, and may begin again
	number = n + 1;
	slots[slot].began = now;
	slots[slot].number = n;
	slots[slot].busy = 1;
#pragma unroll
	for (int i = 0; i < WORDS; i++)
		word[i] = syn[i];
	s->ip.saddr = bpf_htonl(first_client + (n >> PORT_BITS));
	s->tcp.source = bpf_htons(FIRST_PORT + (n & ((1 << PORT_BITS) - 1)));
	s->tcp.seq = bpf_htonl(slot << SLOT_SHIFT | (n & 0xff) << 8 | 1 << 4);
	finish(s, 0);
	return bpf_redirect(out_ifindex, 0);
}

SEC("xdp")
int server(struct xdp_md *ctx)
{
	struct segment *s = segment(ctx);

	if (!s)
		return XDP_PASS;
	if (s->ip.daddr != server_addr || s->tcp.dest != server_port) {
		wrong++;
		return XDP_DROP;
	}
	if (FLAGS(s) & SYN) {
		if (!syn_only)
			return answer(ctx, s, SYN | ACK, 0);
		release(s->tcp.seq, s->ip.saddr, s->tcp.source);
		return XDP_DROP;
	}
	if (FLAGS(s) & FIN)
		return answer(ctx, s, FIN | ACK, 0);
	if (FLAGS(s) & PSH)
		return answer(ctx, s, PSH | ACK, 1);
	return XDP_DROP;
}

SEC("xdp")
int client(struct xdp_md *ctx)
{
	struct segment *s = segment(ctx);

	if (!s)
		return XDP_PASS;
	if (s->ip.saddr != virtual_addr || s->tcp.source != virtual_port) {
		wrong++;
		return XDP_DROP;
	}
	if (FLAGS(s) & SYN)
		return answer(ctx, s, PSH | ACK, 1);
	if (FLAGS(s) & FIN) {
		release(s->tcp.seq, s->ip.daddr, s->tcp.dest);
		return answer(ctx, s, ACK, 0);
	}
	if (FLAGS(s) & PSH)
		return answer(ctx, s, FIN | ACK, 0);
	return XDP_DROP;
}

char _license[] SEC("license") = "Apache-2.0";
