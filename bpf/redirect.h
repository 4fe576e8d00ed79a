/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * connect(2): where may it go, and if that is to the proxy, who asked for what?
 *
 * connect writes the origin into the storage of the connecting socket and
 * rewrites the destination to the proxy on loopback; handover.h takes it from
 * there for TCP, datagram.h for UDP. Of these hooks 0 is EPERM, and 1 lets the
 * call go on.
 */
#ifndef HEADGATE_REDIRECT_H
#define HEADGATE_REDIRECT_H

#include "direct.h"
#include "guard.h"
#include "share.h"

#define DNS_PORT bpf_htons(53)

enum action {
	ACTION_DENY = 0,
	ACTION_PASS,
	ACTION_REDIRECT,
	ACTION_DEFER, /* let connect, but let nothing leave */
	ACTION_AGAIN, /* to the resolver, as rewritten before */
};

struct outcome {
	enum action action;
	enum counter why;
	enum counter instead; /* what would have been the reason to refuse it */
	__u8 observed;
	__u8 direct; /* a rule lets it go as asked, for the proxy not to see */
	__u64 rule;
	__u64 direct_rule;
};

/* The compiler must not read it through a pointer that it computed for several
 * places: the verifier refuses one into the context. */
static __always_inline struct bpf_sock *sock_of(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk;

	asm volatile("%0 = *(u64 *)(%1 + %2)"
		     : "=r"(sk)
		     : "r"(ctx), "i"(__builtin_offsetof(struct bpf_sock_addr, sk)));
	return sk;
}

/* Who calls, on which socket. */
struct call {
	const struct daemon_settings *settings;
	struct proc *proc;
	struct caller caller;
	struct attempt attempt;
};

static __always_inline struct outcome deny(enum counter why)
{
	return (struct outcome){ACTION_DENY, why};
}

static __always_inline struct outcome pass(const struct target *t, enum counter tcp, enum counter udp)
{
	return (struct outcome){ACTION_PASS, t->transport == TRANSPORT_TCP ? tcp : udp};
}

/* transport_of returns 0 for what nobody mediates. */
static __always_inline __u8 transport_of(__u32 type, __u32 protocol)
{
	if (type == SOCK_STREAM && (protocol == IPPROTO_TCP || protocol == IPPROTO_MPTCP))
		return TRANSPORT_TCP;
	if (type == SOCK_DGRAM && protocol == IPPROTO_UDP)
		return TRANSPORT_UDP;
	return 0;
}

/* unmediated is for what the proxy would have to see while it does not run. */
static __always_inline struct outcome unmediated(const struct daemon_settings *s, enum counter why)
{
	if (s->fail_open)
		return (struct outcome){ACTION_PASS, COUNT_PASSED_OPEN};
	return deny(why);
}

static __always_inline struct outcome to_daemon(struct bpf_sock_addr *ctx, struct target *t,
						const struct listener *l, const struct call *call)
{
	const struct daemon_settings *s = call->settings;

	/* A namespace that the proxy does not listen in. */
	if (!l)
		return deny(COUNT_DENIED_NO_LISTENER);
	if (!l->open)
		return unmediated(s, COUNT_DENIED_NO_LISTENER);
	t->proxy_port = bpf_htons(l->port);
	switch (listening(ctx, t)) {
	case LISTENING_DAEMON:
		if (lacks_share(call->proc, t->transport, sock_of(ctx)))
			return deny(COUNT_DENIED_SHARE);
		return (struct outcome){ACTION_REDIRECT, 0};
	case LISTENING_NOBODY:
		return unmediated(s, COUNT_DENIED_NO_LISTENER);
	default:
		return deny(COUNT_DENIED_FOREIGN_LISTENER);
	}
}

/* Straight to the proxy's port there would be no origin. A connected UDP socket
 * for v4-mapped addresses is the exception: each send names the address that
 * connect has rewritten. */
static __always_inline struct outcome to_own_port(struct bpf_sock_addr *ctx, const struct target *t)
{
	struct origin *o;

	if (t->transport == TRANSPORT_UDP) {
		o = bpf_sk_storage_get(&client_origin, sock_of(ctx), NULL, 0);
		if (o && o->proxy_port == t->port)
			return (struct outcome){ACTION_AGAIN, 0};
	}
	return deny(COUNT_DENIED_OWN_PORT);
}

/* by_finding decides what no rule denies. */
static __always_inline struct outcome by_finding(struct bpf_sock_addr *ctx, struct target *t,
						 const struct listener *l, const struct call *call,
						 enum verdict verdict, int stale)
{
	if (verdict == VERDICT_DIRECT || verdict == VERDICT_OBSERVED)
		return pass(t, COUNT_DIRECT, COUNT_DIRECT_UDP);
	if (stale)
		return unmediated(call->settings, COUNT_DENIED_STALE);
	if (t->port == DNS_PORT)
		return to_daemon(ctx, t, l, call);
	if (verdict != VERDICT_PROXY && is_loopback(t))
		return pass(t, COUNT_LOOPBACK, COUNT_LOOPBACK_UDP);
	if (t->transport == TRANSPORT_UDP)
		return deny(COUNT_DENIED_UDP);
	return to_daemon(ctx, t, l, call);
}

/* mediate decides for a process that belongs to a tree. */
static __always_inline struct outcome mediate(struct bpf_sock_addr *ctx, struct target *t,
					      const struct call *call)
{
	const struct daemon_settings *s = call->settings;
	int stale = is_stale(s);
	struct finding finding;
	struct listener *l;
	struct outcome o;

	if (!t->transport)
		return deny(COUNT_DENIED_PROTOCOL);
	/* Nobody said yet where an agent may go. */
	if (!s->generation)
		return deny(COUNT_DENIED_NO_POLICY);
	/* The daemon hangs or is gone: nobody would mediate. */
	if (stale && !s->fail_open)
		return deny(COUNT_DENIED_STALE);

	normalise(t);
	l = bpf_map_lookup_elem(&listeners, &call->attempt.netns);
	if (l && is_loopback(t) && t->port == bpf_htons(l->port))
		return to_own_port(ctx, t);

	finding = destination_verdict(s, t);
	if (finding.verdict == VERDICT_DENY) {
		o = deny(finding.why);
		o.rule = finding.rule;
		return o;
	}
	o = by_finding(ctx, t, l, call, finding.verdict, stale);
	if (o.why == COUNT_DIRECT) {
		o.direct = 1;
		o.direct_rule = finding.rule;
	}
	if (finding.observed && o.action != ACTION_DENY) {
		o.observed = 1;
		o.instead = finding.why;
		o.rule = finding.rule;
	}
	return o;
}

/* settle writes down for the egress program whose socket it is, and what was
 * decided about its connection. */
static __always_inline struct owned *settle(struct bpf_sock *sk, const struct call *call,
					    enum settled settled)
{
	struct owned *o = bpf_sk_storage_get(&owned_socket, sk, NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!o)
		return NULL;
	o->start = call->caller.start;
	o->root_start = call->proc->root_start;
	o->tgid = call->caller.tgid;
	o->root_tgid = call->proc->root_tgid;
	o->enrolment = call->proc->enrolment;
	o->uid = (__u32)bpf_get_current_uid_gid();
	o->netns = call->attempt.netns;
	o->settled = settled;
	o->generation = (__u32)call->settings->generation;
	/* A socket that connects again begins anew. */
	o->direct = DIRECT_NO;
	return o;
}

static __always_inline int write_down(struct bpf_sock_addr *ctx, const struct target *t,
				      const struct call *call)
{
	struct origin *o = bpf_sk_storage_get(&client_origin, sock_of(ctx), NULL, BPF_SK_STORAGE_GET_F_CREATE);

	if (!o)
		return 0;
	__builtin_memcpy(o->addr, t->addr, sizeof(o->addr));
	o->start = call->caller.start;
	o->exec_time = call->proc->exec_time;
	o->root_start = call->proc->root_start;
	o->cgroup = bpf_get_current_cgroup_id();
	o->netns = call->attempt.netns;
	o->cookie = bpf_get_socket_cookie(ctx);
	o->time = bpf_ktime_get_boot_ns();
	o->tgid = call->caller.tgid;
	o->tid = call->caller.tid;
	o->root_tgid = call->proc->root_tgid;
	o->enrolment = call->proc->enrolment;
	o->uid = (__u32)bpf_get_current_uid_gid();
	o->family = t->family;
	o->port = t->port;
	o->proxy_port = t->proxy_port;
	o->published = 0;
	return 1;
}

static __always_inline enum counter redirected(const struct target *t)
{
	if (t->transport == TRANSPORT_UDP)
		return COUNT_REDIRECTED_UDP;
	if (t->family == AF_INET)
		return COUNT_REDIRECTED4;
	return is_v4(t) ? COUNT_REDIRECTED_MAPPED : COUNT_REDIRECTED6;
}

/* observe reports what would be refused and is not: a rule is only observed, or
 * while no rule decides, all is. */
static __always_inline void observe(struct bpf_sock_addr *ctx, const struct target *t,
				    struct call *call, struct outcome *o)
{
	call->attempt.rule = o->rule;
	if (o->action == ACTION_DENY) {
		if (!only_observed(call->settings, o->why))
			return;
		o->action = ACTION_PASS;
		o->instead = o->why;
		o->observed = 1;
	}
	if (!o->observed)
		return;
	call->attempt.observed = 1;
	call->attempt.mediated = o->action == ACTION_REDIRECT;
	refuse(o->instead, &call->caller, call->proc, &call->attempt, t);
	call->attempt.observed = 0;
	call->attempt.mediated = 0;
	/* What passes was counted. */
	o->why = COUNTERS;
}

/* What passes because all is only observed must end with that: egress lets it
 * leave for as long as it lasts. */
static __always_inline enum settled passing(const struct daemon_settings *s, const struct outcome *o)
{
	return o->observed && s->observe ? SETTLED_NOTHING : SETTLED_PASS;
}

/* carry_out does what was decided for a connect, and returns what the hook has
 * to do. What cannot be written down is refused: the proxy would have to. */
static __always_inline enum action carry_out(struct bpf_sock_addr *ctx, const struct target *t,
					     struct call *call, struct outcome o)
{
	struct owned *own;

	observe(ctx, t, call, &o);
	switch (o.action) {
	case ACTION_REDIRECT:
		if (!settle(sock_of(ctx), call, SETTLED_PASS) ||
		    !write_down(ctx, t, call)) {
			o.why = COUNT_STORAGE_FAILED;
			break;
		}
		count(redirected(t));
		return ACTION_REDIRECT;
	case ACTION_PASS:
		/* A socket that connects again, elsewhere and unmediated, must not keep
		 * the record of its earlier origin. Nothing to delete is usual. */
		bpf_sk_storage_delete(&client_origin, sock_of(ctx));
		own = settle(sock_of(ctx), call, passing(call->settings, &o));
		if (!own) {
			o.why = COUNT_STORAGE_FAILED;
			break;
		}
		if (o.direct)
			ask_direct(own, o.direct_rule);
		count(o.why);
		return ACTION_PASS;
	case ACTION_DEFER:
		bpf_sk_storage_delete(&client_origin, sock_of(ctx));
		if (!settle(sock_of(ctx), call, SETTLED_NOTHING)) {
			o.why = COUNT_STORAGE_FAILED;
			break;
		}
		count(COUNT_DEFERRED_UDP);
		return ACTION_PASS;
	case ACTION_AGAIN:
		return ACTION_PASS;
	default:
		break;
	}
	refuse(o.why, &call->caller, call->proc, &call->attempt, t);
	return ACTION_DENY;
}

static __always_inline void retract(struct owned *own)
{
	if (!own->published)
		return;
	remove_datagram(&own->sends_as, own->cookie);
	own->published = 0;
}

/* leave_alone is for a caller that is not enrolled. The socket may have been an
 * enrolled process's, with the record of a redirect that failed. */
static __always_inline enum action leave_alone(struct bpf_sock *sk)
{
	struct owned *own = bpf_sk_storage_get(&owned_socket, sk, NULL, 0);

	/* No origin without an owner: sock_create made that one, or this hook. */
	if (own) {
		retract(own);
		bpf_sk_storage_delete(&client_origin, sk);
		bpf_sk_storage_delete(&owned_socket, sk);
	}
	return ACTION_PASS;
}

/* identify fills in call and returns whether there is something to decide:
 * otherwise *early is what the hook has to do. */
static __always_inline int identify(struct bpf_sock_addr *ctx, struct call *call,
				    const struct target *t, enum action *early)
{
	call->settings = load_settings();
	call->caller = current_caller();
	*early = ACTION_DENY;
	if (!call->settings)
		return 0;
	*early = ACTION_PASS;
	if (is_daemon(call->settings, &call->caller))
		return 0;
	switch (member_of(call->settings, &call->caller, &call->proc)) {
	case OUTSIDER:
		*early = leave_alone(sock_of(ctx));
		return 0;
	case MEMBER:
		break;
	default:
		call->proc = NULL;
	}
	call->attempt.netns = bpf_get_netns_cookie(ctx);
	call->attempt.family = ctx->family;
	call->attempt.type = ctx->type;
	call->attempt.protocol = ctx->protocol;
	if (call->proc)
		return 1;
	refuse(COUNT_DENIED_UNMARKED, &call->caller, NULL, &call->attempt, t);
	*early = ACTION_DENY;
	return 0;
}

static __always_inline enum action judge_connect(struct bpf_sock_addr *ctx, struct target *t)
{
	struct call call = {};
	struct outcome o;
	enum action early;

	t->transport = transport_of(ctx->type, ctx->protocol);
	if (!identify(ctx, &call, t, &early))
		return early;
	o = mediate(ctx, t, &call);
	/* Resolvers connect UDP sockets, never to send, only to learn which source
	 * address the kernel would choose. What is sent is dropped at egress. */
	if (o.action == ACTION_DENY && o.why == COUNT_DENIED_UDP && !call.settings->observe)
		o.action = ACTION_DEFER;
	return carry_out(ctx, t, &call, o);
}

static __always_inline void rewrite4(struct bpf_sock_addr *ctx, const struct target *t,
				     enum action action)
{
	if (action == ACTION_REDIRECT) {
		ctx->user_ip4 = LOOPBACK4;
		ctx->user_port = t->proxy_port;
	} else if (t->normalised) {
		ctx->user_ip4 = t->addr[3];
	}
}

static __always_inline void rewrite6(struct bpf_sock_addr *ctx, const struct target *t,
				     enum action action)
{
	if (action == ACTION_REDIRECT) {
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = is_v4(t) ? MAPPED : 0;
		ctx->user_ip6[3] = is_v4(t) ? LOOPBACK4 : bpf_htonl(1);
		ctx->user_port = t->proxy_port;
	} else if (t->normalised) {
		ctx->user_ip6[3] = t->addr[3];
	}
}

#define TARGET4(ctx)                                  \
	{                                             \
		.addr = {0, 0, MAPPED, ctx->user_ip4}, \
		.port = (__u16)ctx->user_port,        \
		.family = AF_INET,                    \
	}

#define TARGET6(ctx)                                                                      \
	{                                                                                 \
		.addr = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]}, \
		.port = (__u16)ctx->user_port,                                            \
		.family = AF_INET6,                                                       \
	}

SEC("cgroup/connect4")
int headgate_connect4(struct bpf_sock_addr *ctx)
{
	struct target t = TARGET4(ctx);
	enum action action = judge_connect(ctx, &t);

	if (action == ACTION_DENY)
		return 0;
	rewrite4(ctx, &t, action);
	return 1;
}

SEC("cgroup/connect6")
int headgate_connect6(struct bpf_sock_addr *ctx)
{
	struct target t = TARGET6(ctx);
	enum action action = judge_connect(ctx, &t);

	if (action == ACTION_DENY)
		return 0;
	rewrite6(ctx, &t, action);
	return 1;
}

/* The peer that the application is told is the one that it asked for, while
 * the socket's real peer is the proxy. */
static __always_inline void restore4(struct bpf_sock_addr *ctx)
{
	struct origin *o = bpf_sk_storage_get(&client_origin, sock_of(ctx), NULL, 0);

	/* Not redirected, or connected again by somebody who is not enrolled. */
	if (!o || ctx->user_ip4 != LOOPBACK4 || (__u16)ctx->user_port != o->proxy_port)
		return;
	ctx->user_ip4 = o->addr[3];
	ctx->user_port = o->port;
}

static __always_inline void restore6(struct bpf_sock_addr *ctx)
{
	struct origin *o = bpf_sk_storage_get(&client_origin, sock_of(ctx), NULL, 0);

	if (!o || (__u16)ctx->user_port != o->proxy_port)
		return;
	if (ctx->user_ip6[3] != LOOPBACK4 && ctx->user_ip6[3] != bpf_htonl(1))
		return;
	ctx->user_ip6[0] = o->addr[0];
	ctx->user_ip6[1] = o->addr[1];
	ctx->user_ip6[2] = o->addr[2];
	ctx->user_ip6[3] = o->addr[3];
	ctx->user_port = o->port;
}

SEC("cgroup/getpeername4")
int headgate_getpeername4(struct bpf_sock_addr *ctx)
{
	restore4(ctx);
	return 1;
}

SEC("cgroup/getpeername6")
int headgate_getpeername6(struct bpf_sock_addr *ctx)
{
	restore6(ctx);
	return 1;
}

#endif
