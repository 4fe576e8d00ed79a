/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The proxy's port belongs to the daemon, also while no daemon runs. Whoever
 * else listened there would be sent the agents' connections, and would keep the
 * next daemon from starting.
 *
 * bind4|6 refuse a port that was asked for, before it is taken: not even for a
 * moment may somebody hold it. post_bind4|6 see the port that the kernel chose
 * where none was asked for. listen(2) on a socket that was never bound, or a
 * first send, chooses one too, and no hook sees that, nor what was bound before the guard or outside
 * the attached cgroup: therefore connect looks who listens. In all of these, 0
 * is EPERM.
 */
#ifndef HEADGATE_GUARD_H
#define HEADGATE_GUARD_H

#include "refusal.h"

enum listening {
	LISTENING_NOBODY = 0,
	LISTENING_DAEMON,
	LISTENING_OTHER,
};

/* listening tells whose socket the redirect of t would reach. */
static __always_inline enum listening listening(struct bpf_sock_addr *ctx, const struct target *t)
{
	struct bpf_sock_tuple to = {};
	struct bpf_sock *sk;
	enum listening who;
	__u32 size;

	if (is_v4(t)) {
		to.ipv4.saddr = LOOPBACK4;
		to.ipv4.daddr = LOOPBACK4;
		to.ipv4.dport = t->proxy_port;
		size = sizeof(to.ipv4);
	} else {
		to.ipv6.saddr[3] = bpf_htonl(1);
		to.ipv6.daddr[3] = bpf_htonl(1);
		to.ipv6.dport = t->proxy_port;
		size = sizeof(to.ipv6);
	}
	if (t->transport == TRANSPORT_TCP)
		sk = bpf_sk_lookup_tcp(ctx, &to, size, BPF_F_CURRENT_NETNS, 0);
	else
		sk = bpf_sk_lookup_udp(ctx, &to, size, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return LISTENING_NOBODY;
	who = bpf_sk_storage_get(&daemon_socket, sk, NULL, 0) ? LISTENING_DAEMON : LISTENING_OTHER;
	bpf_sk_release(sk);
	return who;
}

static __always_inline int caller_is_daemon(void)
{
	const struct daemon_settings *s = load_settings();
	struct caller c = current_caller();

	return s && is_daemon(s, &c);
}

/* The port is guarded at every address: 0.0.0.0 and :: take loopback's too. */
static __always_inline int is_guarded(__u64 netns, __u32 port)
{
	struct listener *l = bpf_map_lookup_elem(&listeners, &netns);

	return l && l->port == port;
}

/* The proxy takes the port of TCP and that of UDP. */
static __always_inline int has_proxy(__u32 type)
{
	return type == SOCK_STREAM || type == SOCK_DGRAM;
}

/* refuse_bind says who tried: also one who is not enrolled. */
static __always_inline int refuse_bind(__u64 netns, __u32 family, __u32 type, __u16 port)
{
	struct attempt a = {.netns = netns, .family = family, .type = type};
	struct target t = {.port = port};
	struct caller c = current_caller();

	refuse(COUNT_DENIED_BIND, &c, find_proc(&c), &a, &t);
	return 0;
}

static __always_inline int before_bind(struct bpf_sock_addr *ctx)
{
	__u64 netns = bpf_get_netns_cookie(ctx);

	if (!has_proxy(ctx->type))
		return 1;
	if (!is_guarded(netns, bpf_ntohs((__u16)ctx->user_port)) || caller_is_daemon())
		return 1;
	return refuse_bind(netns, ctx->family, ctx->type, (__u16)ctx->user_port);
}

static __always_inline int after_bind(struct bpf_sock *ctx)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	__u32 one = 1;

	if (!has_proxy(ctx->type))
		return 1;
	if (caller_is_daemon()) {
		/* Without storage the socket counts as somebody else's. */
		if (!bpf_sk_storage_get(&daemon_socket, ctx, &one, BPF_SK_STORAGE_GET_F_CREATE))
			count(COUNT_STORAGE_FAILED);
		return 1;
	}
	if (!is_guarded(netns, ctx->src_port))
		return 1;
	return refuse_bind(netns, ctx->family, ctx->type, bpf_htons((__u16)ctx->src_port));
}

SEC("cgroup/bind4")
int headgate_bind4(struct bpf_sock_addr *ctx)
{
	return before_bind(ctx);
}

SEC("cgroup/bind6")
int headgate_bind6(struct bpf_sock_addr *ctx)
{
	return before_bind(ctx);
}

SEC("cgroup/post_bind4")
int headgate_post_bind4(struct bpf_sock *ctx)
{
	return after_bind(ctx);
}

SEC("cgroup/post_bind6")
int headgate_post_bind6(struct bpf_sock *ctx)
{
	return after_bind(ctx);
}

#endif
