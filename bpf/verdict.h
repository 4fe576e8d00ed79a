/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What the destination tables say about an address and a port. */
#ifndef HEADGATE_VERDICT_H
#define HEADGATE_VERDICT_H

#include "maps.h"

#include <bpf/bpf_endian.h>

#define LOOPBACK4 bpf_htonl(0x7f000001)
#define MAPPED bpf_htonl(0xffff)

/* A destination in network byte order, v4 as v4-mapped. */
struct target {
	__u32 addr[4];
	__u16 port;
	__u16 family; /* of the hook: what the application passed */
	__u16 proxy_port;
	__u8 transport;
	__u8 normalised; /* addr is no longer what the application passed */
};

static __always_inline int is_v4(const struct target *t)
{
	return !t->addr[0] && !t->addr[1] && t->addr[2] == MAPPED;
}

/* normalise turns the unspecified address into loopback, which is what the
 * kernel makes of it for an unbound socket. The program writes it back: for a
 * socket bound to another address the kernel would choose that one, and the
 * connection would go where no rule was asked about. */
static __always_inline void normalise(struct target *t)
{
	if (is_v4(t)) {
		if (t->addr[3])
			return;
		t->addr[3] = LOOPBACK4;
	} else {
		if (t->addr[0] | t->addr[1] | t->addr[2] | t->addr[3])
			return;
		t->addr[3] = bpf_htonl(1);
	}
	t->normalised = 1;
}

static __always_inline int is_loopback(const struct target *t)
{
	if (is_v4(t))
		return (t->addr[3] & bpf_htonl(0xff000000)) == bpf_htonl(0x7f000000);
	return !t->addr[0] && !t->addr[1] && !t->addr[2] && t->addr[3] == bpf_htonl(1);
}

struct finding {
	enum verdict verdict;
	enum counter why;
	__u64 rule;
	__u8 observed; /* the rule would refuse, and is only observed */
};

static __always_inline struct finding found(const struct dest_value *v)
{
	struct finding nothing = {VERDICT_NONE, COUNT_DENIED_RULE};

	if (!v)
		return nothing;
	return (struct finding){v->verdict, v->why, v->rule, v->verdict == VERDICT_OBSERVED};
}

static __always_inline struct finding verdict4(const struct target *t, __u8 generation, __u16 port)
{
	struct dest4_key key = {
		.prefixlen = 32 + 32,
		.generation = generation,
		.transport = t->transport,
		.port = port,
	};

	__builtin_memcpy(key.addr, &t->addr[3], sizeof(key.addr));
	return found(bpf_map_lookup_elem(&dest4, &key));
}

static __always_inline struct finding verdict6(const struct target *t, __u8 generation, __u16 port)
{
	struct dest6_key key = {
		.prefixlen = 32 + 128,
		.generation = generation,
		.transport = t->transport,
		.port = port,
	};

	__builtin_memcpy(key.addr, t->addr, sizeof(key.addr));
	return found(bpf_map_lookup_elem(&dest6, &key));
}

/* destination_verdict joins the entry for this port with that for any port:
 * a denial by either wins, else the entry for this port. What the entry for any
 * port would refuse is observed all the same, also where the proxy mediates. */
static __always_inline struct finding destination_verdict(const struct daemon_settings *s,
							  const struct target *t)
{
	__u8 generation = (__u8)s->generation;
	struct finding port, any;

	if (is_v4(t)) {
		port = verdict4(t, generation, t->port);
		any = verdict4(t, generation, 0);
	} else {
		port = verdict6(t, generation, t->port);
		any = verdict6(t, generation, 0);
	}
	if (any.verdict == VERDICT_DENY || port.verdict == VERDICT_NONE)
		return any;
	if (any.observed && port.verdict != VERDICT_DENY) {
		if (port.verdict == VERDICT_PROXY)
			any.verdict = VERDICT_PROXY;
		return any;
	}
	return port;
}

#endif
