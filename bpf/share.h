/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * How much of inflight and of datagrams one tree may take: who fills its share
 * is refused, and others go on.
 *
 * Trees are counted in slots of a fixed table, by a hash of their root: there is
 * nothing to make for a tree, nothing to remove after it, and nothing that can be
 * full. Two trees that meet in a slot have one share together. A slot's count is
 * that of its entries in the map, as each insertion and each removal that
 * succeeded changes it; processors that insert at the same time may exceed the
 * share by their number.
 */
#ifndef HEADGATE_SHARE_H
#define HEADGATE_SHARE_H

#include "maps.h"

/* linux/bpf.h */
#define BPF_EXIST 2

static __always_inline struct share *share_of(__u32 root_tgid, __u64 root_start)
{
	__u64 hash = (root_start ^ ((__u64)root_tgid << 32)) * 0x9e3779b97f4a7c15ULL;
	__u32 slot = hash >> (64 - SHARE_BITS);

	return bpf_map_lookup_elem(&shares, &slot);
}

/* A removal may be counted before its insertion is. */
static __always_inline int is_used_up(__s64 taken)
{
	return taken >= SHARE;
}

/* remove_inflight removes what is published for a flow, if anything is. */
static __always_inline void remove_inflight(const struct flow *f)
{
	struct origin *there = bpf_map_lookup_elem(&inflight, f);
	struct share *share;

	if (!there)
		return;
	/* Afterwards the entry may be another one's. */
	share = share_of(there->root_tgid, there->root_start);
	if (!bpf_map_delete_elem(&inflight, f) && share)
		__sync_fetch_and_add(&share->inflight, -1);
}

static __always_inline int insert_inflight(const struct flow *f, const struct origin *o)
{
	struct share *share = share_of(o->root_tgid, o->root_start);

	if (!share || is_used_up(share->inflight))
		return 0;
	/* Of an earlier socket with the port. */
	remove_inflight(f);
	if (bpf_map_update_elem(&inflight, f, o, BPF_NOEXIST))
		return 0;
	__sync_fetch_and_add(&share->inflight, 1);
	return 1;
}

/* remove_datagram removes what a socket published, unless another has the port by
 * now. */
static __always_inline void remove_datagram(const struct flow *f, __u64 cookie)
{
	struct origin *there = bpf_map_lookup_elem(&datagrams, f);
	struct share *share;

	if (!there || there->cookie != cookie)
		return;
	share = share_of(there->root_tgid, there->root_start);
	if (!bpf_map_delete_elem(&datagrams, f) && share)
		__sync_fetch_and_add(&share->datagrams, -1);
}

enum inserted {
	INSERTED = 0,
	INSERTED_NO_SHARE,
	INSERTED_NO_ROOM,
};

/* insert_datagram publishes a record, or puts it in the place of one of the same
 * tree: the caller has seen that it is no other's. */
static __always_inline enum inserted insert_datagram(const struct flow *f, const struct origin *o)
{
	struct share *share = share_of(o->root_tgid, o->root_start);

	if (!share)
		return INSERTED_NO_ROOM;
	/* It was counted when it was inserted. */
	if (!bpf_map_update_elem(&datagrams, f, o, BPF_EXIST))
		return INSERTED;
	if (is_used_up(share->datagrams))
		return INSERTED_NO_SHARE;
	if (!bpf_map_update_elem(&datagrams, f, o, BPF_NOEXIST)) {
		__sync_fetch_and_add(&share->datagrams, 1);
		return INSERTED;
	}
	/* Another thread may have been first. */
	return bpf_map_update_elem(&datagrams, f, o, BPF_EXIST) ? INSERTED_NO_ROOM : INSERTED;
}

/* lacks_share tells whether a socket of the tree would have no record. */
static __always_inline int lacks_share(const struct proc *p, __u8 transport, struct bpf_sock *sk)
{
	struct share *share = share_of(p->root_tgid, p->root_start);
	struct origin *published;
	struct owned *own;

	if (!share)
		return 1;
	if (transport == TRANSPORT_TCP)
		return is_used_up(share->inflight);
	if (!is_used_up(share->datagrams))
		return 0;
	own = bpf_sk_storage_get(&owned_socket, sk, NULL, 0);
	if (!own || !own->published)
		return 1;
	published = bpf_map_lookup_elem(&datagrams, &own->sends_as);
	return !published || published->cookie != own->cookie;
}

#endif
