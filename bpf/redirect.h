/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * From connect(2) to the proxy's accept(2).
 *
 * connect writes the origin into the storage of the connecting socket and
 * rewrites the destination to the proxy on loopback. sock_ops publishes the
 * record when the source port is known and before the SYN leaves, and moves it
 * to the accepted socket. In connect, 0 is EPERM and 1 lets the call go on.
 */
#ifndef HEADGATE_REDIRECT_H
#define HEADGATE_REDIRECT_H

#include "enrolment.h"
#include "guard.h"
#include "verdict.h"

enum action {
	ACTION_DENY = 0,
	ACTION_PASS,
	ACTION_REDIRECT,
};

static __always_inline enum action deny(enum counter why)
{
	count(why);
	return ACTION_DENY;
}

/* A socket that connects again, elsewhere and unmediated, must not keep the
 * record of its earlier origin. Nothing to delete is the usual case. */
static __always_inline enum action pass(struct bpf_sock_addr *ctx, enum counter why)
{
	count(why);
	bpf_sk_storage_delete(&client_origin, ctx->sk);
	return ACTION_PASS;
}

static __always_inline int is_stale(const struct daemon_settings *s)
{
	__u64 now = bpf_ktime_get_boot_ns();

	return s->heartbeat_limit && now > s->heartbeat && now - s->heartbeat > s->heartbeat_limit;
}

static __always_inline enum action write_down(struct bpf_sock_addr *ctx, const struct target *t,
					      const struct caller *c, const struct proc *p)
{
	struct origin *o = bpf_sk_storage_get(&client_origin, ctx->sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	/* No record, no attribution: the proxy would have to refuse anyway. */
	if (!o)
		return deny(COUNT_STORAGE_FAILED);
	__builtin_memcpy(o->addr, t->addr, sizeof(o->addr));
	o->start = c->start;
	o->exec_time = p->exec_time;
	o->root_start = p->root_start;
	o->cgroup = bpf_get_current_cgroup_id();
	o->netns = bpf_get_netns_cookie(ctx);
	o->cookie = bpf_get_socket_cookie(ctx);
	o->time = bpf_ktime_get_boot_ns();
	o->tgid = c->tgid;
	o->tid = c->tid;
	o->root_tgid = p->root_tgid;
	o->enrolment = p->enrolment;
	o->uid = (__u32)bpf_get_current_uid_gid();
	o->family = t->family;
	o->port = t->port;
	o->proxy_port = t->proxy_port;
	o->published = 0;
	if (t->family == AF_INET)
		count(COUNT_REDIRECTED4);
	else if (is_v4(t))
		count(COUNT_REDIRECTED_MAPPED);
	else
		count(COUNT_REDIRECTED6);
	return ACTION_REDIRECT;
}

/* mediate decides for a process that belongs to a tree. */
static __always_inline enum action mediate(struct bpf_sock_addr *ctx, struct target *t,
					   const struct daemon_settings *s)
{
	__u64 netns = bpf_get_netns_cookie(ctx);
	struct listener *l;
	enum verdict verdict;

	/* UDP, ping sockets and the like are not mediated here. */
	if (ctx->type != SOCK_STREAM ||
	    (ctx->protocol != IPPROTO_TCP && ctx->protocol != IPPROTO_MPTCP))
		return pass(ctx, COUNT_NOT_TCP);
	/* Nobody said yet where an agent may go. */
	if (!s->generation)
		return deny(COUNT_DENIED_NO_POLICY);
	/* The daemon hangs or is gone: nobody would mediate. */
	if (is_stale(s))
		return deny(COUNT_DENIED_STALE);

	normalise(t);
	l = bpf_map_lookup_elem(&listeners, &netns);
	/* Straight to the proxy's port: there would be no origin. */
	if (l && is_loopback(t) && t->port == bpf_htons(l->port))
		return deny(COUNT_DENIED_OWN_PORT);

	verdict = destination_verdict(t);
	if (verdict == VERDICT_DENY)
		return deny(COUNT_DENIED_RULE);
	if (verdict == VERDICT_DIRECT)
		return pass(ctx, COUNT_DIRECT);
	if (verdict != VERDICT_PROXY && is_loopback(t))
		return pass(ctx, COUNT_LOOPBACK);
	/* A namespace that the proxy does not listen in, or not now. */
	if (!l || !l->open)
		return deny(COUNT_DENIED_NO_LISTENER);
	t->proxy_port = bpf_htons(l->port);
	switch (listening(ctx, t)) {
	case LISTENING_DAEMON:
		return ACTION_REDIRECT;
	case LISTENING_NOBODY:
		return deny(COUNT_DENIED_NO_LISTENER);
	default:
		return deny(COUNT_DENIED_FOREIGN_LISTENER);
	}
}

static __always_inline enum action judge(struct bpf_sock_addr *ctx, struct target *t)
{
	const struct daemon_settings *s = load_settings();
	struct caller c = current_caller();
	enum action action;
	__u32 *enrolment;
	struct proc *p;

	if (!s)
		return ACTION_DENY;
	if (is_daemon(s, &c))
		return ACTION_PASS;
	p = find_proc(&c);
	if (!p) {
		/* A descendant that procs had no room for. */
		if (is_marked(c.tgid))
			return deny(COUNT_DENIED_UNMARKED);
		enrolment = matching_rule(s);
		/* Not ours. The socket may have been an enrolled process's, with the
		 * record of a redirect that failed. */
		if (!enrolment) {
			bpf_sk_storage_delete(&client_origin, ctx->sk);
			return ACTION_PASS;
		}
		p = enrol_as_root(&c, *enrolment, 0);
		if (!p)
			return ACTION_DENY;
		announce(EVENT_ENROL, c.tgid, p);
	}
	action = mediate(ctx, t, s);
	return action == ACTION_REDIRECT ? write_down(ctx, t, &c, p) : action;
}

SEC("cgroup/connect4")
int headgate_connect4(struct bpf_sock_addr *ctx)
{
	struct target t = {
		.addr = {0, 0, MAPPED, ctx->user_ip4},
		.port = (__u16)ctx->user_port,
		.family = AF_INET,
	};

	switch (judge(ctx, &t)) {
	case ACTION_REDIRECT:
		ctx->user_ip4 = LOOPBACK4;
		ctx->user_port = t.proxy_port;
		return 1;
	case ACTION_PASS:
		if (t.normalised)
			ctx->user_ip4 = t.addr[3];
		return 1;
	default:
		return 0;
	}
}

SEC("cgroup/connect6")
int headgate_connect6(struct bpf_sock_addr *ctx)
{
	struct target t = {
		.addr = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]},
		.port = (__u16)ctx->user_port,
		.family = AF_INET6,
	};

	switch (judge(ctx, &t)) {
	case ACTION_REDIRECT:
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = is_v4(&t) ? MAPPED : 0;
		ctx->user_ip6[3] = is_v4(&t) ? LOOPBACK4 : bpf_htonl(1);
		ctx->user_port = t.proxy_port;
		return 1;
	case ACTION_PASS:
		if (t.normalised)
			ctx->user_ip6[3] = t.addr[3];
		return 1;
	default:
		return 0;
	}
}

/* The peer that the application is told is the one that it asked for, while
 * the socket's real peer is the proxy. */
SEC("cgroup/getpeername4")
int headgate_getpeername4(struct bpf_sock_addr *ctx)
{
	struct origin *o = bpf_sk_storage_get(&client_origin, ctx->sk, NULL, 0);

	/* Not redirected, or connected again by somebody who is not enrolled. */
	if (!o || ctx->user_ip4 != LOOPBACK4 || (__u16)ctx->user_port != o->proxy_port)
		return 1;
	ctx->user_ip4 = o->addr[3];
	ctx->user_port = o->port;
	return 1;
}

SEC("cgroup/getpeername6")
int headgate_getpeername6(struct bpf_sock_addr *ctx)
{
	struct origin *o = bpf_sk_storage_get(&client_origin, ctx->sk, NULL, 0);

	if (!o || (__u16)ctx->user_port != o->proxy_port)
		return 1;
	if (ctx->user_ip6[3] != LOOPBACK4 && ctx->user_ip6[3] != bpf_htonl(1))
		return 1;
	ctx->user_ip6[0] = o->addr[0];
	ctx->user_ip6[1] = o->addr[1];
	ctx->user_ip6[2] = o->addr[2];
	ctx->user_ip6[3] = o->addr[3];
	ctx->user_port = o->port;
	return 1;
}

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
	if (bpf_map_update_elem(&inflight, &f, o, BPF_ANY)) {
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
	bpf_map_delete_elem(&inflight, &f);
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
	bpf_map_delete_elem(&inflight, &f);
	count(COUNT_WITHDRAWN);
}

SEC("sockops")
int headgate_sockops(struct bpf_sock_ops *ctx)
{
	switch (ctx->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		publish(ctx);
		break;
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		hand_over(ctx);
		break;
	case BPF_SOCK_OPS_STATE_CB:
		if (ctx->args[1] == BPF_TCP_CLOSE)
			withdraw(ctx);
		break;
	}
	return 1;
}

#endif
