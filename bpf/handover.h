/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From the redirected connect to the proxy's accept(2): sock_ops publishes the
 * record when the source port is known and before the SYN leaves, and moves it
 * to the accepted socket.
 */
#ifndef HEADGATE_HANDOVER_H
#define HEADGATE_HANDOVER_H

#include "direct.h"
#include "share.h"
#include "verdict.h"

/* The compiler must not join the reads of two branches through a computed
 * pointer: the verifier refuses one into the context. */
#define CTX_READ(ctx, member)                                                        \
	({                                                                           \
		__u64 value;                                                         \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                                \
			     : "=r"(value)                                           \
			     : "r"(ctx), "i"(__builtin_offsetof(struct bpf_sock_ops, member))); \
		(__u32) value;                                                       \
	})

/* In both families the address ends up v4-mapped if it is a v4 one. */
static __always_inline void local_flow(struct bpf_sock_ops *ctx, struct flow *f)
{
	if (ctx->family == AF_INET) {
		f->addr[2] = MAPPED;
		f->addr[3] = CTX_READ(ctx, local_ip4);
	} else {
		f->addr[0] = CTX_READ(ctx, local_ip6[0]);
		f->addr[1] = CTX_READ(ctx, local_ip6[1]);
		f->addr[2] = CTX_READ(ctx, local_ip6[2]);
		f->addr[3] = CTX_READ(ctx, local_ip6[3]);
	}
	f->port = CTX_READ(ctx, local_port);
	f->netns = bpf_get_netns_cookie(ctx);
}

static __always_inline void remote_flow(struct bpf_sock_ops *ctx, struct flow *f)
{
	if (ctx->family == AF_INET) {
		f->addr[2] = MAPPED;
		f->addr[3] = CTX_READ(ctx, remote_ip4);
	} else {
		f->addr[0] = CTX_READ(ctx, remote_ip6[0]);
		f->addr[1] = CTX_READ(ctx, remote_ip6[1]);
		f->addr[2] = CTX_READ(ctx, remote_ip6[2]);
		f->addr[3] = CTX_READ(ctx, remote_ip6[3]);
	}
	f->port = bpf_ntohl(CTX_READ(ctx, remote_port));
	f->netns = bpf_get_netns_cookie(ctx);
}

static __always_inline int to_proxy(const struct flow *remote, const struct origin *o)
{
	if (remote->addr[0] | remote->addr[1] || remote->port != bpf_ntohs(o->proxy_port))
		return 0;
	if (remote->addr[2] == MAPPED)
		return remote->addr[3] == LOOPBACK4;
	return !remote->addr[2] && remote->addr[3] == bpf_htonl(1);
}

/* publish runs in connect(2), after the source port was chosen and before the
 * SYN leaves: accept cannot win the race. It cannot refuse; without a record
 * the proxy resets the connection. */
static __always_inline void publish(struct bpf_sock_ops *ctx)
{
	struct flow f = {}, remote = {};
	struct bpf_sock *sk = ctx->sk;
	struct origin *o;

	if (!sk)
		return;
	o = bpf_sk_storage_get(&client_origin, sk, NULL, 0);
	/* Not redirected; or its record was used by an earlier connect and this
	 * one is somebody else's. */
	if (!o || o->published)
		return;
	remote_flow(ctx, &remote);
	/* Another program on this cgroup sent it elsewhere after us: the record
	 * must not speak for a connection that the proxy never gets. */
	if (!to_proxy(&remote, o)) {
		count(COUNT_DIVERTED);
		return;
	}
	o->published = 1;
	local_flow(ctx, &f);
	if (!insert_inflight(&f, o)) {
		count(COUNT_INFLIGHT_FULL);
		return;
	}
	count(COUNT_PUBLISHED);
	bpf_sock_ops_cb_flags_set(ctx, (int)ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline int is_proxy_side(struct bpf_sock_ops *ctx, __u64 netns)
{
	struct listener *l = bpf_map_lookup_elem(&listeners, &netns);

	return l && l->port == ctx->local_port;
}

/* hand_over runs on the proxy's side when the handshake ends, before accept. */
static __always_inline void hand_over(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct flow f = {};
	struct origin *o;

	remote_flow(ctx, &f);
	if (!sk || !is_proxy_side(ctx, f.netns))
		return;
	o = bpf_map_lookup_elem(&inflight, &f);
	/* Not redirected by us. The proxy resets it. */
	if (!o) {
		count(COUNT_HANDOVER_MISSED);
		return;
	}
	if (bpf_sk_storage_get(&server_origin, sk, o, BPF_SK_STORAGE_GET_F_CREATE))
		count(COUNT_HANDED_OVER);
	else
		count(COUNT_HANDOVER_FAILED);
	remove_inflight(&f);
}

/* withdraw removes what nobody accepted: refused, reset, given up. The cookie
 * says whether the entry is still that of this socket. */
static __always_inline void withdraw(struct bpf_sock_ops *ctx)
{
	struct origin *mine, *published;
	struct bpf_sock *sk = ctx->sk;
	struct flow f = {};

	if (!sk)
		return;
	mine = bpf_sk_storage_get(&client_origin, sk, NULL, 0);
	if (!mine)
		return;
	local_flow(ctx, &f);
	published = bpf_map_lookup_elem(&inflight, &f);
	if (!published || published->cookie != mine->cookie)
		return;
	remove_inflight(&f);
	count(COUNT_WITHDRAWN);
}

SEC("sockops")
int headgate_sockops(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		publish(ctx);
		begin_direct(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		hand_over(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == BPF_TCP_CLOSE) {
			withdraw(ctx);
			end_direct(ctx);
		} else if (ctx->args[1] == BPF_TCP_ESTABLISHED) {
			open_direct(ctx);
		}
		break;
	}
	return 1;
}

#endif
