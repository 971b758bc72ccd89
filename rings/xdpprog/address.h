// SPDX-License-Identifier: Apache-2.0
//
// Addresses and ports, as all programs here have them in their tables.

#ifndef SLUICE_ADDRESS_H
#define SLUICE_ADDRESS_H

#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// IPv6, or IPv4 mapped as in RFC 4291 2.5.5.2; bytes as on the wire.
struct addr {
	__u32 w[4];
};

// port is in network order; 0: every port. zero is not, in one place: FRAGMENTS.
struct endpoint {
	struct addr addr;
	__be16 port;
	__u8 proto;
	__u8 zero;
};

static __always_inline void map_v4(struct addr *a, __be32 v4)
{
	a->w[0] = 0;
	a->w[1] = 0;
	a->w[2] = bpf_htonl(0xffff);
	a->w[3] = v4;
}

#endif
