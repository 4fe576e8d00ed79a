/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Datagrams: DNS goes to the daemon's resolver, what a rule allows goes as
 * asked, and the rest does not leave.
 *
 * sendmsg decides for datagrams that name their destination. The source port of
 * a connected socket is known only when it sends, and no other hook runs then:
 * therefore egress publishes who asks the resolver. It is also the backstop:
 * what a socket of an enrolled process sends without a decision is dropped.
 * recvmsg makes the resolver's answer come from the server that was asked,
 * which is what clients check.
 */
#ifndef HEADGATE_DATAGRAM_H
#define HEADGATE_DATAGRAM_H

#include "redirect.h"

static __always_inline enum action judge_send(struct bpf_sock_addr *ctx, struct target *t)
{
	struct call call = {};
	struct outcome o;
	enum action early;

	t->transport = transport_of(ctx->type, ctx->protocol);
	if (!identify(ctx, &call, t, &early))
		return early;
	o = mediate(ctx, t, &call);
	observe(ctx, t, &call, &o);
	switch (o.action) {
	case ACTION_REDIRECT:
		if (settle(sock_of(ctx), &call, SETTLED_PASS) && write_down(ctx, t, &call)) {
			count(COUNT_REDIRECTED_UDP);
			return ACTION_REDIRECT;
		}
		o.why = COUNT_STORAGE_FAILED;
		break;
	case ACTION_PASS:
		/* The record of an earlier question stays: its answer may be on its way. */
		if (settle(sock_of(ctx), &call, passing(call.settings, &o))) {
			count(o.why);
			return ACTION_PASS;
		}
		o.why = COUNT_STORAGE_FAILED;
		break;
	case ACTION_AGAIN:
		if (settle(sock_of(ctx), &call, SETTLED_PASS)) {
			count(COUNT_REDIRECTED_UDP);
			return ACTION_PASS;
		}
		o.why = COUNT_STORAGE_FAILED;
		break;
	default:
		break;
	}
	refuse(o.why, &call.caller, call.proc, &call.attempt, t);
	return ACTION_DENY;
}

SEC("cgroup/sendmsg4")
int headgate_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct target t = TARGET4(ctx);
	enum action action = judge_send(ctx, &t);

	if (action == ACTION_DENY)
		return 0;
	rewrite4(ctx, &t, action);
	return 1;
}

SEC("cgroup/sendmsg6")
int headgate_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct target t = TARGET6(ctx);
	enum action action = judge_send(ctx, &t);

	if (action == ACTION_DENY)
		return 0;
	rewrite6(ctx, &t, action);
	return 1;
}

SEC("cgroup/recvmsg4")
int headgate_recvmsg4(struct bpf_sock_addr *ctx)
{
	restore4(ctx);
	return 1;
}

SEC("cgroup/recvmsg6")
int headgate_recvmsg6(struct bpf_sock_addr *ctx)
{
	restore6(ctx);
	return 1;
}

/* What a packet says of itself, after the host's own address translation. */
struct packet {
	struct flow from;
	struct target to;
};

#define NEXTHDR_HOP 0

/* read_packet fails for what has IP options, a routing header or any other
 * header ahead of the transport's: it would go elsewhere than where the caller
 * said (source routes need no privilege), or hides its port. A jumbo header is
 * the kernel's own. */
static __always_inline int read_packet(struct __sk_buff *skb, const struct bpf_sock *sk, struct packet *p)
{
	__u8 want = sk->type == SOCK_STREAM ? IPPROTO_TCP : IPPROTO_UDP;
	__u32 at = 40;
	__u8 head;

	p->from.port = sk->src_port;
	p->to.transport = want == IPPROTO_TCP ? TRANSPORT_TCP : TRANSPORT_UDP;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		p->from.addr[2] = p->to.addr[2] = MAPPED;
		return !bpf_skb_load_bytes(skb, 0, &head, 1) && head == 0x45 &&
		       !bpf_skb_load_bytes(skb, 12, &p->from.addr[3], 4) &&
		       !bpf_skb_load_bytes(skb, 16, &p->to.addr[3], 4) &&
		       !bpf_skb_load_bytes(skb, 20 + 2, &p->to.port, 2);
	}
	if (skb->protocol != bpf_htons(ETH_P_IPV6) || bpf_skb_load_bytes(skb, 6, &head, 1))
		return 0;
	if (want == IPPROTO_TCP && head == NEXTHDR_HOP) {
		at += 8;
		if (bpf_skb_load_bytes(skb, 40, &head, 1))
			return 0;
	}
	return head == want && !bpf_skb_load_bytes(skb, 8, p->from.addr, 16) &&
	       !bpf_skb_load_bytes(skb, 24, p->to.addr, 16) &&
	       !bpf_skb_load_bytes(skb, at + 2, &p->to.port, 2);
}

static __always_inline int same_flow(const struct flow *a, const struct flow *b)
{
	return a->netns == b->netns && a->port == b->port && a->addr[0] == b->addr[0] &&
	       a->addr[1] == b->addr[1] && a->addr[2] == b->addr[2] && a->addr[3] == b->addr[3];
}

/* is_own_source: IP_PKTINFO lets a socket send as any address of the host, also
 * as one at which another socket has the same port. */
static __always_inline int is_own_source(const struct bpf_sock *sk, const struct flow *f)
{
	if (f->addr[2] == MAPPED && !f->addr[0] && !f->addr[1])
		return !sk->src_ip4 || sk->src_ip4 == f->addr[3];
	if (!(sk->src_ip6[0] | sk->src_ip6[1] | sk->src_ip6[2] | sk->src_ip6[3]))
		return 1;
	return sk->src_ip6[0] == f->addr[0] && sk->src_ip6[1] == f->addr[1] &&
	       sk->src_ip6[2] == f->addr[2] && sk->src_ip6[3] == f->addr[3];
}

enum leaving {
	LEAVING_NEVER = 0,
	LEAVING,
	LEAVING_UNRULED,  /* while what no rule decides is only observed */
	LEAVING_NO_SHARE, /* not: the tree has too many records */
};

/* publish_datagram says who sends this, so that the daemon can tell. What a
 * socket of another tree has published is not taken over. */
static __always_inline enum leaving publish_datagram(const struct flow *f, struct bpf_sock *sk,
						     struct owned *own)
{
	struct origin *o = bpf_sk_storage_get(&client_origin, sk, NULL, 0), *there;
	enum inserted inserted;
	struct flow old;
	__u8 before;

	if (!o || !is_own_source(sk, f))
		return LEAVING_NEVER;
	there = bpf_map_lookup_elem(&datagrams, f);
	if (there && there->cookie != o->cookie &&
	    (there->root_tgid != o->root_tgid || there->root_start != o->root_start))
		return LEAVING_NEVER;
	bpf_spin_lock(&own->lock);
	before = own->published;
	old = own->sends_as;
	own->sends_as = *f;
	own->cookie = o->cookie;
	own->published = 1;
	bpf_spin_unlock(&own->lock);
	if (before && !same_flow(f, &old))
		remove_datagram(&old, o->cookie);
	inserted = insert_datagram(f, o);
	if (inserted == INSERTED_NO_SHARE)
		return LEAVING_NO_SHARE;
	if (inserted != INSERTED) {
		count(COUNT_INFLIGHT_FULL);
		return LEAVING_NEVER;
	}
	/* Another thread sends from another address, and found nothing to remove. */
	bpf_spin_lock(&own->lock);
	old = own->sends_as;
	bpf_spin_unlock(&own->lock);
	if (same_flow(f, &old))
		return LEAVING;
	remove_datagram(f, o->cookie);
	return LEAVING_NEVER;
}

#define LOOPBACK_IFINDEX 1

static __always_inline int to_resolver(const struct packet *p, const struct owned *own)
{
	struct listener *l = bpf_map_lookup_elem(&listeners, &own->netns);

	return l && is_loopback(&p->to) && p->to.port == bpf_htons(l->port);
}

/* may_leave is mediate for a datagram on its way. What was decided in connect
 * or sendmsg does not bind it: the call may have failed after the hook, another
 * thread's may have come between, and corked data keeps its destination. Also
 * while observing, nobody may ask the resolver in another's name. */
static __always_inline enum leaving may_leave(const struct daemon_settings *s, const struct packet *p,
					      struct bpf_sock *sk, struct owned *own, int astray)
{
	int stale = is_stale(s), closed = astray || !s->generation || (stale && !s->fail_open);
	struct finding finding;

	if (to_resolver(p, own))
		return closed ? LEAVING_NEVER : publish_datagram(&p->from, sk, own);
	finding = destination_verdict(s, &p->to);
	if (finding.verdict == VERDICT_DENY)
		return LEAVING_NEVER;
	if (closed)
		return LEAVING_UNRULED;
	if (finding.verdict == VERDICT_DIRECT || finding.verdict == VERDICT_OBSERVED || stale)
		return LEAVING;
	if (p->to.port == DNS_PORT)
		return s->fail_open ? LEAVING : LEAVING_UNRULED;
	if (finding.verdict != VERDICT_PROXY && is_loopback(&p->to))
		return LEAVING;
	return LEAVING_UNRULED;
}

/* may_flow is for a stream: its connection was decided about. What new rules deny
 * ends, though: each set of them is asked once. */
static __always_inline enum leaving may_flow(const struct daemon_settings *s, const struct packet *p,
					     struct owned *own, int astray)
{
	if (own->settled != SETTLED_PASS || astray)
		return LEAVING_UNRULED;
	if (!s || own->generation == (__u32)s->generation)
		return LEAVING;
	if (!to_resolver(p, own) && destination_verdict(s, &p->to).verdict == VERDICT_DENY)
		return LEAVING_NEVER;
	own->generation = (__u32)s->generation;
	return LEAVING;
}

#define SECOND 1000000000ULL

/* report_drop tells of a socket's drops once a second. */
static __always_inline void report_drop(struct __sk_buff *skb, const struct bpf_sock *sk, struct owned *own,
					enum counter why)
{
	struct caller c = {.start = own->start, .tgid = own->tgid};
	__u64 now = bpf_ktime_get_boot_ns();
	struct refusal *r;

	count(why);
	if (own->reported && now - own->reported < SECOND)
		return;
	own->reported = now;
	r = begin_refusal(why, &c, NULL);
	if (!r)
		return;
	r->root_tgid = own->root_tgid;
	r->root_start = own->root_start;
	r->enrolment = own->enrolment;
	r->uid = own->uid;
	r->family = sk->family;
	r->type = sk->type;
	r->protocol = sk->protocol;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		r->addr[2] = MAPPED;
		/* Without the address the report is still worth having. */
		bpf_skb_load_bytes(skb, 16, &r->addr[3], 4);
		bpf_skb_load_bytes(skb, 20 + 2, &r->port, 2);
	} else {
		bpf_skb_load_bytes(skb, 24, r->addr, 16);
		bpf_skb_load_bytes(skb, 40 + 2, &r->port, 2);
	}
	bpf_ringbuf_submit(r, 0);
}

/* 1 lets the packet leave, 0 drops it. */
SEC("cgroup_skb/egress")
int headgate_egress(struct __sk_buff *skb)
{
	const struct daemon_settings *settings;
	struct bpf_sock *sk = skb->sk;
	enum leaving leaving;
	struct packet p = {};
	struct owned *own;
	int readable, astray;

	/* Not of a socket: a reset, an ICMP error, a forwarded packet. */
	if (!sk)
		return 1;
	sk = bpf_sk_fullsock(sk);
	if (!sk)
		return 1;
	own = bpf_sk_storage_get(&owned_socket, sk, NULL, 0);
	/* No enrolled process's. */
	if (!own)
		return 1;
	settings = load_settings();
	readable = read_packet(skb, sk, &p);
	/* Loopback, when the socket is bound to a device, would leave the host. */
	astray = is_loopback(&p.to) && skb->ifindex != LOOPBACK_IFINDEX;
	p.from.netns = own->netns;
	leaving = LEAVING_NEVER;
	if (sk->type != SOCK_DGRAM)
		leaving = may_flow(settings, &p, own, astray || !readable || sk->type != SOCK_STREAM);
	else if (settings && readable)
		leaving = may_leave(settings, &p, sk, own, astray);
	if (leaving == LEAVING || (leaving == LEAVING_UNRULED && settings && settings->observe))
		return 1;
	/* What a listening socket sends answers somebody who connects to it. */
	if (sk->type == SOCK_STREAM && sk->state == BPF_TCP_LISTEN)
		return 1;
	report_drop(skb, sk, own, leaving == LEAVING_NO_SHARE ? COUNT_DENIED_SHARE : COUNT_DENIED_EGRESS);
	return 0;
}

SEC("cgroup/sock_release")
int headgate_sock_release(struct bpf_sock *ctx)
{
	struct owned *own = bpf_sk_storage_get(&owned_socket, ctx, NULL, 0);

	if (own)
		retract(own);
	return 1;
}

#endif
