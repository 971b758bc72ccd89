//go:build ignore

// SPDX-License-Identifier: Apache-2.0
//
// The two ends of a wire benchmark. generate is run by BPF_PROG_TEST_RUN with
// live frames: each run makes its frame the next packet and sends it out of an
// interface. sink runs where the packets are to arrive: it counts and drops
// them.
//
// A frame comes back to generate as whoever had it last left it, so every run
// writes all of the headers.

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
} __attribute__((packed));

// Headers and the first 6 bytes of the payload, in words of 8 bytes.
#define WORDS 6

// What generate sends, set before it is loaded.
volatile const __u64 packet[WORDS]; // its first bytes; source port and UDP checksum 0
volatile const __u32 packet_sum;      // ones' complement sum of what the UDP checksum covers in it
volatile const __u32 out_ifindex;
volatile const __u32 first_port, flows; // source ports, taken in turn

// What sink counts as arrived, in network order.
volatile const __be32 want_addr;
volatile const __be16 want_port;

// Counts. Each program runs on one CPU at a time.
__u64 generated; // packets that generate made
__u64 received;  // packets that sink was sent and wanted
__u64 unwanted;  // UDP packets with another destination
__u32 flow;      // the next packet's

SEC("xdp")
int generate(struct xdp_md *ctx)
{
	__u64 *word = (void *)(long)ctx->data;
	struct headers *h = (void *)word;
	__u32 sum, port;

	if ((void *)(word + WORDS) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
#pragma unroll
	for (int i = 0; i < WORDS; i++)
		word[i] = packet[i];
	port = first_port + flow;
	if (++flow >= flows)
		flow = 0;
	sum = packet_sum + port;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	h->udp.source = bpf_htons(port);
	h->udp.check = sum == 0xffff ? 0xffff : bpf_htons(~sum); // 0 would say that there is none
	generated++;
	return bpf_redirect(out_ifindex, 0);
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	struct headers *h = (void *)(long)ctx->data;

	if ((void *)(h + 1) > (void *)(long)ctx->data_end)
		return XDP_PASS;
	if (h->eth.h_proto != bpf_htons(ETH_P_IP) || h->ip.protocol != IPPROTO_UDP)
		return XDP_PASS;
	if (h->ip.daddr == want_addr && h->udp.dest == want_port)
		received++;
	else
		unwanted++;
	return XDP_DROP;
}

char _license[] SEC("license") = "Apache-2.0";
