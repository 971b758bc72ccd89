//go:build ignore

// SPDX-License-Identifier: Apache-2.0
//
// The ends of a wire benchmark. generate is run by BPF_PROG_TEST_RUN with live
// frames: each run that is due makes its frame the next packet and sends it out
// of an interface. sink runs where the packets are to arrive: it counts and drops
// them. Where answers are measured, reflect runs in its place and sends each
// packet back as a server's answer, and answers counts those at the client.
//
// A frame comes back to generate as whoever had it last left it, so every run
// writes all of the headers.

#include <stdbool.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct headers {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	__be16 stamp[2]; // when it was made: the low half of bpf_ktime_get_ns; 0: not known
} __attribute__((packed, aligned(2)));

// Headers and the first 6 bytes of the payload, in words of 8 bytes.
#define WORDS 6

// A delay in ns is counted in bucket ns, if that is below 2 * PER_OCTAVE, else in one
// of PER_OCTAVE for each power of two: what is in a bucket is within 1/PER_OCTAVE of
// its lower end. They suffice for 32 bits.
#define PER_OCTAVE 32
#define BUCKETS 896

// What generate sends, set before it is loaded.
volatile const __u64 packet[WORDS]; // its first bytes; source port and UDP checksum 0
volatile const __u32 packet_sum;      // ones' complement sum of what the UDP checksum covers in it
volatile const __u32 out_ifindex;
volatile const __u32 first_port, flows; // source ports, taken in turn

// When it sends. Times are in 1/1024 ns.
#define TICKS 10
#define PAUSED (~0ULL)
#define LATE (100000ULL << TICKS) // what is later than this is not made up for
__u64 interval; // between packets; 0: none, and they bear no time; PAUSED: no packets
__u64 due;      // the next packet

// What sink counts as arrived, and what answers does, in network order.
volatile const __be32 want_addr;
volatile const __be16 want_port;
volatile const __be32 service_addr;
volatile const __be16 service_port;
volatile const __u32 answer_ifindex; // where reflect sends answers: XDP_TX would not wake a veth that has no program

// Counts. Each program runs on one CPU at a time.
__u64 generated; // packets that generate made
__u64 received;  // packets that sink was sent and wanted
__u64 unwanted;  // UDP packets with another destination
__u64 answered;  // answers that came back
__u32 flow;      // the next packet's

// Delays, from generate to sink or to answers.
__u32 timed;             // they are to be counted
__u64 delays[BUCKETS];
__u32 longest;           // ns

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	__u64 *word = (void *)(long)ctx->data;
	struct headers *h = (void *)word;
	__u32 sum, port, stamp = 0;

	if ((void *)(word + WORDS) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	if (interval) {
		__u64 now = bpf_ktime_get_ns();

		stamp = now;
		now <<= TICKS;
		if (interval == PAUSED || now < due)
			return XDP_DROP;
		if (now - due > LATE)
			due = now;
		due += interval;
	}
#pragma unroll
	for (int i = 0; i < WORDS; i++)
		word[i] = packet[i];
	port = first_port + flow;
	if (++flow >= flows)
		flow = 0;
	sum = packet_sum + port + (stamp >> 16) + (stamp & 0xffff);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	h->udp.source = bpf_htons(port);
	h->udp.check = sum == 0xffff ? 0xffff : bpf_htons(~sum); // 0 would say that there is none
	h->stamp[0] = bpf_htons(stamp >> 16);
	h->stamp[1] = bpf_htons(stamp);
	generated++;
	return bpf_redirect(out_ifindex, 0);
}

// udp returns a UDP packet's headers, NULL if it is none. What is in an IPIP tunnel
// is behind an outer header of IPv4 without options; *outer is the bytes of that.
static __always_inline struct headers *udp(struct xdp_md *ctx, int *outer)
{
	struct headers *h = (void *)(long)ctx->data;

	*outer = 0;
	if ((void *)(h + 1) > (void *)(long)ctx->data_end || h->eth.h_proto != bpf_htons(ETH_P_IP))
		return NULL;
	if (h->ip.protocol == IPPROTO_IPIP) {
		*outer = sizeof(h->ip);
		h = (void *)h + sizeof(h->ip);
		if ((void *)(h + 1) > (void *)(long)ctx->data_end)
			return NULL;
	}
	return h->ip.protocol == IPPROTO_UDP ? h : NULL;
}

// wanted counts a packet by where it went.
static __always_inline bool wanted(struct headers *h)
{
	if (h->ip.daddr != want_addr || h->udp.dest != want_port) {
		unwanted++;
		return false;
	}
	received++;
	return true;
}

static __always_inline void count_delay(struct headers *h)
{
	__u32 ns, shift = 0, top;

	if (!timed)
		return;
	ns = (__u32)bpf_ktime_get_ns() - ((__u32)bpf_ntohs(h->stamp[0]) << 16 | bpf_ntohs(h->stamp[1]));
	if (ns > longest)
		longest = ns;
	top = ns;
#pragma unroll
	for (int by = 16; by; by >>= 1) {
		if (top >> by >= PER_OCTAVE) {
			top >>= by;
			shift += by;
		}
	}
	top += shift * PER_OCTAVE;
	if (top < BUCKETS)
		delays[top]++;
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	int outer;
	struct headers *h = udp(ctx, &outer);

	if (!h)
		return XDP_PASS;
	if (wanted(h))
		count_delay(h);
	return XDP_DROP;
}

SEC("xdp")
int reflect(struct xdp_md *ctx)
{
	struct ethhdr eth;
	int outer;
	struct headers *h = udp(ctx, &outer);
	__be32 addr;
	__be16 port;

	if (!h)
		return XDP_PASS;
	if (!wanted(h))
		return XDP_DROP;
	__builtin_memcpy(&eth, (void *)(long)ctx->data, sizeof(eth));
	if (outer && bpf_xdp_adjust_head(ctx, sizeof(h->ip)))
		return XDP_ABORTED;
	h = (void *)(long)ctx->data;
	if ((void *)(h + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memcpy(h->eth.h_dest, eth.h_source, ETH_ALEN);
	__builtin_memcpy(h->eth.h_source, eth.h_dest, ETH_ALEN);
	h->eth.h_proto = eth.h_proto;
	// What is swapped changes no checksum.
	addr = h->ip.saddr, h->ip.saddr = h->ip.daddr, h->ip.daddr = addr;
	port = h->udp.source, h->udp.source = h->udp.dest, h->udp.dest = port;
	return bpf_redirect(answer_ifindex, 0);
}

SEC("xdp")
int answers(struct xdp_md *ctx)
{
	int outer;
	struct headers *h = udp(ctx, &outer);

	if (!h)
		return XDP_PASS;
	if (h->ip.saddr == service_addr && h->udp.source == service_port) {
		answered++;
		count_delay(h);
	}
	return XDP_DROP;
}

char _license[] SEC("license") = "Apache-2.0";
