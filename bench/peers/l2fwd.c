// SPDX-License-Identifier: Apache-2.0
//
// l2fwd forwards between two interfaces on AF_XDP: what AF_XDP itself allows, to
// measure sluice against. One thread on one CPU polls without sleeping, takes up to
// a batch of frames from one interface's rx ring, gives each the MAC addresses of
// its way, and hands all to the other's tx ring with one call of the kernel's where
// that asks for it. Sizes of rings, UMEM and batch are sluice's defaults, and so are
// the socket options.
//
//     l2fwd CPU IF0 MAC0 IF1 MAC1
//
// What comes in by IF0 leaves by IF1 to MAC1, and the other way round.

#define _GNU_SOURCE
#include <errno.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/if_link.h>
#include <net/ethernet.h>
#include <xdp/xsk.h>

#ifndef XDP_MAX_TX_SKB_BUDGET
#define XDP_MAX_TX_SKB_BUDGET 9 // Linux 6.17
#endif

enum {
	FRAME = 2048,
	FRAMES = 16384,
	RING = 2048,
	BATCH = 64,
	SKB_BUDGET = 32, // frames of one sendto where the option is not known
	QUEUE = 0,
};

struct port {
	int ifindex;
	uint8_t mac[ETH_ALEN]; // its own
	uint8_t to[ETH_ALEN];  // where what leaves by it goes
	struct xsk_socket *socket;
	struct xsk_ring_prod fill, tx;
	struct xsk_ring_cons completion, rx;
};

static struct port ports[2];
static uint8_t *memory;
static uint64_t spare[FRAMES]; // addresses of frames that no ring has
static unsigned spares;
static volatile sig_atomic_t ended;

static void end(int signal)
{
	(void)signal;
	ended = 1;
}

static void die(const char *what, int error)
{
	fprintf(stderr, "l2fwd: %s: %s\n", what, strerror(error));
	exit(1);
}

// check ends the program on a negative result of libxdp or libbpf, which is -errno.
static void check(const char *what, int result)
{
	if (result < 0)
		die(what, -result);
}

// name reads an interface's index and its MAC address, and where its packets go.
static void name(struct port *p, const char *interface, const char *to)
{
	struct ifreq request = {0};
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	p->ifindex = if_nametoindex(interface);
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface);
	if (!p->ifindex || s < 0 || ioctl(s, SIOCGIFHWADDR, &request))
		die(interface, errno);
	close(s);
	memcpy(p->mac, request.ifr_hwaddr.sa_data, ETH_ALEN);
	if (sscanf(to, "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", &p->to[0], &p->to[1], &p->to[2], &p->to[3], &p->to[4], &p->to[5]) != ETH_ALEN)
		die(to, EINVAL);
}

// attach has the interface's packets come to the socket, by a program that does
// nothing else: return bpf_redirect_map(&map, ctx->rx_queue_index, XDP_PASS).
static void attach(struct port *p)
{
	uint32_t queue = QUEUE;
	int fd = xsk_socket__fd(p->socket);
	int map = bpf_map_create(BPF_MAP_TYPE_XSKMAP, "sockets", sizeof(queue), sizeof(fd), QUEUE + 1, NULL);

	check("make a map", map);
	check("put the socket into the map", bpf_map_update_elem(map, &queue, &fd, 0));
	const struct bpf_insn program[] = {
		{.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = BPF_REG_2, .src_reg = BPF_REG_1, .off = offsetof(struct xdp_md, rx_queue_index)},
		{.code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = BPF_REG_1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = map},
		{0},
		{.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_3, .imm = XDP_PASS},
		{.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect_map},
		{.code = BPF_JMP | BPF_EXIT},
	};
	int loaded = bpf_prog_load(BPF_PROG_TYPE_XDP, "l2fwd", "GPL", program, sizeof(program) / sizeof(*program), NULL);

	check("load the XDP program", loaded);
	check("attach the XDP program", bpf_xdp_attach(p->ifindex, loaded, XDP_FLAGS_DRV_MODE, NULL));
}

// refill gives the kernel as many frames to fill as it has room for.
static void refill(struct port *p)
{
	uint32_t at, n = xsk_prod_nb_free(&p->fill, RING);

	n = n < spares ? n : spares;
	if (!n || xsk_ring_prod__reserve(&p->fill, n, &at) != n)
		return;
	for (uint32_t i = 0; i < n; i++)
		*xsk_ring_prod__fill_addr(&p->fill, at + i) = spare[--spares];
	xsk_ring_prod__submit(&p->fill, n);
}

// reclaim takes back what was sent, keeps the fill ring full and wakes the kernel if
// it waits for that.
static void reclaim(struct port *p)
{
	uint32_t at, n = xsk_ring_cons__peek(&p->completion, RING, &at);

	for (uint32_t i = 0; i < n; i++)
		spare[spares++] = *xsk_ring_cons__comp_addr(&p->completion, at + i) & ~(uint64_t)(FRAME - 1);
	if (n)
		xsk_ring_cons__release(&p->completion, n);
	refill(p);
	if (xsk_ring_prod__needs_wakeup(&p->fill))
		recvfrom(xsk_socket__fd(p->socket), NULL, 0, MSG_DONTWAIT, NULL, NULL);
}

static uint32_t pending(struct port *p) { return *p->tx.producer - __atomic_load_n(p->tx.consumer, __ATOMIC_ACQUIRE); }

// kick has the kernel send, again while it stops at its budget.
static void kick(struct port *p)
{
	uint32_t left = pending(p), was;

	if (!xsk_ring_prod__needs_wakeup(&p->tx))
		return;
	for (int i = 0; i <= RING / SKB_BUDGET; i++) {
		int failed = sendto(xsk_socket__fd(p->socket), NULL, 0, MSG_DONTWAIT, NULL, 0);

		was = left;
		left = pending(p);
		if (!left || left == was || !failed || errno != EAGAIN)
			return;
	}
}

// forward takes a batch from in and hands it to out; what out has no room for is
// dropped.
static void forward(struct port *in, struct port *out)
{
	uint32_t from, to, n = xsk_ring_cons__peek(&in->rx, BATCH, &from), room;

	if (n) {
		room = xsk_prod_nb_free(&out->tx, n);
		room = xsk_ring_prod__reserve(&out->tx, room < n ? room : n, &to);
		for (uint32_t i = 0; i < n; i++) {
			const struct xdp_desc *d = xsk_ring_cons__rx_desc(&in->rx, from + i);
			struct ether_header *eth = (void *)(memory + d->addr);

			if (i >= room) {
				spare[spares++] = d->addr & ~(uint64_t)(FRAME - 1);
				continue;
			}
			memcpy(eth->ether_dhost, out->to, ETH_ALEN);
			memcpy(eth->ether_shost, out->mac, ETH_ALEN);
			*xsk_ring_prod__tx_desc(&out->tx, to + i) = *d;
		}
		xsk_ring_cons__release(&in->rx, n);
		xsk_ring_prod__submit(&out->tx, room);
		kick(out);
	}
	reclaim(in);
}

int main(int argc, char **argv)
{
	const struct xsk_umem_config umem_config = {.fill_size = RING, .comp_size = RING, .frame_size = FRAME};
	const struct xsk_socket_config config = {
		.rx_size = RING, .tx_size = RING, .libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD, .bind_flags = XDP_USE_NEED_WAKEUP,
	};
	struct xsk_umem *umem;
	cpu_set_t cpus;

	if (argc != 6) {
		fprintf(stderr, "usage: l2fwd CPU IF0 MAC0 IF1 MAC1\n");
		return 2;
	}
	CPU_ZERO(&cpus);
	CPU_SET(atoi(argv[1]), &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus))
		die("pin to the CPU", errno);
	signal(SIGTERM, end);
	signal(SIGINT, end);

	memory = mmap(NULL, (size_t)FRAMES * FRAME, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (memory == MAP_FAILED)
		die("memory", errno);
	for (uint64_t i = 0; i < FRAMES; i++)
		spare[spares++] = i * FRAME;
	check("UMEM", xsk_umem__create(&umem, memory, (uint64_t)FRAMES * FRAME, &ports[0].fill, &ports[0].completion, &umem_config));
	for (int i = 0; i < 2; i++) {
		struct port *p = &ports[i];
		const char *interface = argv[2 + 2 * i];
		int budget = RING, buffer = RING * FRAME;

		name(p, interface, argv[3 + 2 * i]);
		check(interface, xsk_socket__create_shared(&p->socket, interface, QUEUE, umem, &p->rx, &p->tx, &p->fill, &p->completion, &config));
		// Without these it is slower, not wrong.
		setsockopt(xsk_socket__fd(p->socket), SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &budget, sizeof(budget));
		setsockopt(xsk_socket__fd(p->socket), SOL_SOCKET, SO_SNDBUFFORCE, &buffer, sizeof(buffer));
		refill(p);
	}
	for (int i = 0; i < 2; i++)
		attach(&ports[i]);
	printf("forwarding\n");
	fflush(stdout);
	while (!ended) {
		forward(&ports[0], &ports[1]);
		forward(&ports[1], &ports[0]);
	}
	for (int i = 0; i < 2; i++) {
		bpf_xdp_detach(ports[i].ifindex, XDP_FLAGS_DRV_MODE, NULL);
		xsk_socket__delete(ports[i].socket);
	}
	xsk_umem__delete(umem);
	return 0;
}
