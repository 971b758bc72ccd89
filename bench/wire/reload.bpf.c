//go:build ignore

// SPDX-License-Identifier: Apache-2.0
//
// A load on many services, to see what a change of the director's costs it. send
// is run by BPF_PROG_TEST_RUN with live frames and sends, when one is due, a UDP
// packet to the next service. arrive runs where they are to arrive, counts them
// and notes the longest time between two.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct datagram {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed, aligned(2)));

#define WORDS 6 // of 8 bytes: the headers and 6 bytes more

// Set before it is loaded. There is no UDP checksum.
volatile const __u64 first[WORDS]; // the first packet's frame, to its 48th byte
volatile const __u32 out_ifindex;
volatile const __u32 services, clients; // ports of either from the first packet's on
volatile const __be32 server_addr;

__u64 interval; // ns between packets; 0: none are sent
__u64 due;      // when the next one is

// Counts, and the longest gaps in ns. Each program runs on one CPU at a time.
__u64 sent, arrived, wrong;
__u64 sent_at, arrived_at; // the last packet; 0: none yet
__u64 sent_gap, arrived_gap;
__u32 service, source; // the next packet's

static __always_inline void gap(__u64 now, __u64 *last, __u64 *longest)
{
	if (*last && now - *last > *longest)
		*longest = now - *last;
	*last = now;
}

SEC("xdp")
int send(struct xdp_md *ctx)
{
	__u64 *word = (void *)(long)ctx->data, now = bpf_ktime_get_ns();
	struct datagram *d = (void *)word;

	if ((void *)(word + WORDS) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	if (!interval || now < due)
		return XDP_DROP;
	if (now - due > 100 * interval)
		due = now; // not all of a longer halt is made up for
	due += interval;
#pragma unroll
	for (int i = 0; i < WORDS; i++)
		word[i] = first[i];
	d->udp.dest = bpf_htons(bpf_ntohs(d->udp.dest) + service);
	d->udp.source = bpf_htons(bpf_ntohs(d->udp.source) + source);
	if (++service >= services) {
		service = 0;
		if (++source >= clients)
			source = 0;
	}
	gap(now, &sent_at, &sent_gap);
	sent++;
	return bpf_redirect(out_ifindex, 0);
}

SEC("xdp")
int arrive(struct xdp_md *ctx)
{
	struct datagram *d = (void *)(long)ctx->data;

	if ((void *)(d + 1) > (void *)(long)ctx->data_end || d->eth.h_proto != bpf_htons(ETH_P_IP) || d->ip.protocol != IPPROTO_UDP)
		return XDP_PASS;
	if (d->ip.daddr != server_addr) {
		wrong++;
		return XDP_DROP;
	}
	gap(bpf_ktime_get_ns(), &arrived_at, &arrived_gap);
	arrived++;
	return XDP_DROP;
}

char _license[] SEC("license") = "Apache-2.0";
