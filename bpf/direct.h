/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * What TCP connections carry that go as asked: connect notes the rule in
 * owned_socket, and sock_ops adds the connection to the rule's total, first when
 * it is established and then, with what it carried, when it ends. Nothing is
 * decided here. What cannot be counted goes on all the same.
 */
#ifndef HEADGATE_DIRECT_H
#define HEADGATE_DIRECT_H

#include "maps.h"

/* ask_direct is for a connect that a rule lets go as asked, on a socket that has
 * no connection: the hook does not run on one that has. */
static __always_inline void ask_direct(struct owned *own, __u64 rule)
{
	own->rule = rule;
	own->since = bpf_ktime_get_ns();
	own->direct = DIRECT_ASKED;
}

/* begin_direct runs before the SYN leaves. It asks to be told when the
 * connection is established, and when it ends. */
static __always_inline void begin_direct(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct owned *own;

	if (!sk)
		return;
	own = bpf_sk_storage_get(&owned_socket, sk, NULL, 0);
	if (!own || own->direct != DIRECT_ASKED)
		return;
	own->direct = DIRECT_BEGUN;
	if (bpf_sock_ops_cb_flags_set(ctx, (int)ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG))
		count(COUNT_DIRECT_LOST);
}

static __always_inline struct direct_total *total_of(__u64 rule)
{
	struct direct_total *total = bpf_map_lookup_elem(&direct_totals, &rule), none = {};

	if (total)
		return total;
	/* Another processor may be first, or the table is full. */
	bpf_map_update_elem(&direct_totals, &rule, &none, BPF_NOEXIST);
	total = bpf_map_lookup_elem(&direct_totals, &rule);
	if (total)
		return total;
	rule = OTHER_RULES;
	return bpf_map_lookup_elem(&direct_totals, &rule);
}

/* open_direct runs when the handshake is over, whichever side began it. Who
 * holds a connection for weeks is seen from here on. */
static __always_inline void open_direct(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct direct_total *total;
	struct owned *own;

	if (!sk)
		return;
	own = bpf_sk_storage_get(&owned_socket, sk, NULL, 0);
	if (!own || own->direct != DIRECT_BEGUN)
		return;
	total = total_of(own->rule);
	if (!total) {
		count(COUNT_DIRECT_LOST);
		return;
	}
	own->direct = DIRECT_OPEN;
	__sync_fetch_and_add(&total->begun, 1);
}

/* sent_fin is for the state before the last. */
static __always_inline int sent_fin(__u32 state)
{
	return state == BPF_TCP_FIN_WAIT1 || state == BPF_TCP_FIN_WAIT2 ||
	       state == BPF_TCP_CLOSING || state == BPF_TCP_LAST_ACK;
}

/* less_flag takes off a SYN or FIN, which the kernel's sums have as a byte. */
static __always_inline __u64 less_flag(__u64 bytes)
{
	return bytes ? bytes - 1 : 0;
}

/* enum sock_flags of include/net/sock.h: the other side has sent a FIN. */
#define SOCK_DONE 1

/* end_direct runs once for a connection: in TIME_WAIT it is closed already, and
 * the kernel's smaller record of it has no owner. */
static __always_inline void end_direct(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	__u32 before = ctx->args[0];
	struct direct_total *total;
	struct tcp_sock *tcp;
	struct owned *own;
	__u64 up, down;
	__u8 was;

	if (!sk)
		return;
	own = bpf_sk_storage_get(&owned_socket, sk, NULL, 0);
	if (!own)
		return;
	was = own->direct;
	own->direct = DIRECT_NO;
	/* It failed, or is none. */
	if (was != DIRECT_OPEN)
		return;
	tcp = bpf_skc_to_tcp_sock(sk);
	total = total_of(own->rule);
	if (!tcp || !total) {
		count(COUNT_DIRECT_LOST);
		return;
	}
	up = less_flag(tcp->bytes_acked);
	if (sent_fin(before) && tcp->snd_una == tcp->write_seq)
		up = less_flag(up);
	down = tcp->bytes_received;
	if (tcp->inet_conn.icsk_inet.sk.__sk_common.skc_flags >> SOCK_DONE & 1)
		down = less_flag(down);
	/* Atomic: this may run in a task, and for another socket in an interrupt of
	 * it. */
	__sync_fetch_and_add(&total->flows, 1);
	__sync_fetch_and_add(&total->up, up);
	__sync_fetch_and_add(&total->down, down);
	__sync_fetch_and_add(&total->microseconds, (bpf_ktime_get_ns() - own->since) / 1000);
}

#endif
