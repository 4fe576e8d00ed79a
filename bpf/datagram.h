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
		if (write_down(ctx, t, &call) && settle(ctx->sk, &call, SETTLED_RESOLVER, -1)) {
			count(COUNT_REDIRECTED_UDP);
			return ACTION_REDIRECT;
		}
		o.why = COUNT_STORAGE_FAILED;
		break;
	case ACTION_PASS:
		/* The record of an earlier question stays: its answer may be on its way. */
		if (settle(ctx->sk, &call, SETTLED_PASS, -1)) {
			count(o.why);
			return ACTION_PASS;
		}
		o.why = COUNT_STORAGE_FAILED;
		break;
	case ACTION_AGAIN:
		if (settle(ctx->sk, &call, SETTLED_RESOLVER, -1)) {
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

/* source_of reads where a packet comes from. The port is the socket's: in front
 * of the UDP header an agent may have put options. */
static __always_inline int source_of(struct __sk_buff *skb, const struct bpf_sock *sk, struct flow *f)
{
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		f->addr[2] = MAPPED;
		if (bpf_skb_load_bytes(skb, 12, &f->addr[3], 4))
			return 0;
	} else if (skb->protocol != bpf_htons(ETH_P_IPV6) || bpf_skb_load_bytes(skb, 8, f->addr, 16)) {
		return 0;
	}
	f->port = sk->src_port;
	return 1;
}

static __always_inline int same_flow(const struct flow *a, const struct flow *b)
{
	return a->netns == b->netns && a->port == b->port && a->addr[0] == b->addr[0] &&
	       a->addr[1] == b->addr[1] && a->addr[2] == b->addr[2] && a->addr[3] == b->addr[3];
}

/* retract removes what a socket published, unless another has the port by now. */
static __always_inline void retract(const struct owned *own, const struct origin *o)
{
	struct origin *published;

	if (!own->published)
		return;
	published = bpf_map_lookup_elem(&datagrams, &own->sends_as);
	if (published && published->cookie == o->cookie)
		bpf_map_delete_elem(&datagrams, &own->sends_as);
}

/* publish_datagram says who sends this, so that the daemon can tell. */
static __always_inline int publish_datagram(struct __sk_buff *skb, struct bpf_sock *sk, struct owned *own)
{
	struct origin *o = bpf_sk_storage_get(&client_origin, sk, NULL, 0);
	struct flow f = {};

	if (!o || !source_of(skb, sk, &f))
		return 0;
	f.netns = o->netns;
	if (own->published && !same_flow(&f, &own->sends_as)) {
		retract(own, o);
		own->published = 0;
	}
	if (bpf_map_update_elem(&datagrams, &f, o, BPF_ANY)) {
		count(COUNT_INFLIGHT_FULL);
		return 0;
	}
	own->sends_as = f;
	own->published = 1;
	return 1;
}

#define SECOND 1000000000ULL

/* report_drop tells of a socket's drops once a second. */
static __always_inline void report_drop(struct __sk_buff *skb, const struct bpf_sock *sk, struct owned *own)
{
	struct caller c = {.start = own->start, .tgid = own->tgid};
	__u64 now = bpf_ktime_get_boot_ns();
	struct refusal *r;

	count(COUNT_DENIED_EGRESS);
	if (own->reported && now - own->reported < SECOND)
		return;
	own->reported = now;
	r = begin_refusal(COUNT_DENIED_EGRESS, &c, NULL);
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
	struct owned *own;

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
	if (!own->blocked) {
		if (own->settled == SETTLED_PASS)
			return 1;
		if (own->settled == SETTLED_RESOLVER && publish_datagram(skb, sk, own))
			return 1;
	}
	settings = load_settings();
	if (settings && settings->observe)
		return 1;
	/* What a listening socket sends answers somebody who connects to it. */
	if (sk->type == SOCK_STREAM && sk->state == BPF_TCP_LISTEN)
		return 1;
	report_drop(skb, sk, own);
	return 0;
}

SEC("cgroup/sock_release")
int headgate_sock_release(struct bpf_sock *ctx)
{
	struct owned *own = bpf_sk_storage_get(&owned_socket, ctx, NULL, 0);
	struct origin *o;

	if (!own || !own->published)
		return 1;
	o = bpf_sk_storage_get(&client_origin, ctx, NULL, 0);
	if (o)
		retract(own, o);
	return 1;
}

#endif
