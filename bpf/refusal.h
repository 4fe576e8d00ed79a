/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Telling userspace what an enrolled process was refused, and why. */
#ifndef HEADGATE_REFUSAL_H
#define HEADGATE_REFUSAL_H

#include "enrolment.h"
#include "verdict.h"

/* Only what a map or a global names is described in the object. */
const struct refusal *refusal_type __attribute__((unused));
const enum transport *transport_type __attribute__((unused));

/* What a hook knows of the socket that was refused. */
struct attempt {
	__u64 netns;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u64 rule;
	__u8 observed; /* it goes on all the same */
	__u8 mediated; /* to the proxy, and is counted there */
};

/* begin_refusal returns a record that is filled in as far as the caller is
 * concerned, or NULL if there is no room. p is NULL for a process that procs
 * had no room for. */
static __always_inline struct refusal *begin_refusal(enum counter reason, const struct caller *c,
						     const struct proc *p)
{
	struct refusal *r = bpf_ringbuf_reserve(&refusals, sizeof(*r), 0);

	if (!r) {
		count(COUNT_REFUSALS_LOST);
		return NULL;
	}
	__builtin_memset(r, 0, sizeof(*r));
	r->time = bpf_ktime_get_boot_ns();
	r->reason = reason;
	r->tgid = c->tgid;
	r->start = c->start;
	if (p) {
		r->root_tgid = p->root_tgid;
		r->root_start = p->root_start;
		r->enrolment = p->enrolment;
	}
	return r;
}

/* is_unruled tells a refusal of what no rule decides from one by a rule, whose
 * own entry says whether it is only observed, and from one for want of something
 * that mediation needs. */
static __always_inline int is_unruled(enum counter reason)
{
	return reason == COUNT_DENIED_UDP || reason == COUNT_DENIED_PROTOCOL ||
	       reason == COUNT_DENIED_SOCKET_TYPE;
}

static __always_inline int only_observed(const struct daemon_settings *s, enum counter reason)
{
	return s->observe && is_unruled(reason);
}

/* refuse counts and reports a refusal. t is NULL where there is no destination. */
static __always_inline void refuse(enum counter reason, const struct caller *c, const struct proc *p,
				   const struct attempt *a, const struct target *t)
{
	struct refusal *r;

	if (!a->mediated)
		count(a->observed ? COUNT_OBSERVED : reason);
	r = begin_refusal(reason, c, p);
	if (!r)
		return;
	r->observed = a->observed;
	r->rule = a->rule;
	r->uid = (__u32)bpf_get_current_uid_gid();
	r->cgroup = bpf_get_current_cgroup_id();
	r->netns = a->netns;
	r->family = a->family;
	r->type = a->type;
	r->protocol = a->protocol;
	if (t) {
		__builtin_memcpy(r->addr, t->addr, sizeof(r->addr));
		r->port = t->port;
	}
	bpf_ringbuf_submit(r, 0);
}

#endif
