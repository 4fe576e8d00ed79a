/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * New cgroups. One that a rule names is an agent's at once, before a process can
 * be in it, also while no daemon runs; for what the rules here cannot say, and
 * for the record, each is reported. Both forms of a hook are as in process.h.
 */
#ifndef HEADGATE_CGROUP_H
#define HEADGATE_CGROUP_H

#include "enrolment.h"

#include <bpf/bpf_tracing.h>

/* What rules compare: the beginning and the end of a name or path. */
struct cgroup_text {
	__u64 head[NAME_HEAD / 8];
	__u64 tail[NAME_TAIL / 8];
	__u64 len; /* 0: it could not be read */
};

static __always_inline void take_text(struct cgroup_text *t, const char *text)
{
	__u32 zero = 0, len;
	struct event *e = bpf_map_lookup_elem(&scratch, &zero);
	long n;

	__builtin_memset(t, 0, sizeof(*t));
	if (!e)
		return;
	/* Before the text there is room for the end of a short one. */
	n = bpf_probe_read_kernel_str(e->data + NAME_TAIL, PATH_ROOM, text);
	/* It was cut: nothing is known of its end. */
	if (n <= 1 || n >= PATH_ROOM)
		return;
	len = (__u32)n - 1;
	if (len > PATH_ROOM)
		return;
	if (bpf_probe_read_kernel(t->head, sizeof(t->head), e->data + NAME_TAIL) ||
	    bpf_probe_read_kernel(t->tail, sizeof(t->tail), e->data + len))
		return;
	t->len = len;
}

/* differs is 0 for a cgroup that the rule means. There is no branch in it: each
 * would double what the verifier has to follow, for every rule. What lies beyond
 * the text is masked out by a rule that is long enough. */
static __always_inline __u64 differs(const struct cgroup_name *r, const struct cgroup_text *name,
				     const struct cgroup_text *path, __u64 level)
{
	__u64 by_path = r->by_path, by_name = ~by_path;
	__u64 len = (path->len & by_path) | (name->len & by_name);
	__u64 other = (level ^ r->level) & by_path;

	/* The highest bit of a difference below zero. */
	other |= (len - r->min_len) >> 63 | (r->max_len - len) >> 63;
	for (int i = 0; i < NAME_HEAD / 8; i++)
		other |= (((path->head[i] & by_path) | (name->head[i] & by_name)) ^ r->head[i]) & r->head_mask[i];
	for (int i = 0; i < NAME_TAIL / 8; i++)
		other |= (((path->tail[i] & by_path) | (name->tail[i] & by_name)) ^ r->tail[i]) & r->tail_mask[i];
	return other;
}

static __always_inline void add_rule(__u64 id, const __u32 *enrolment)
{
	struct marks *named;
	__u32 zero = 0;

	if (bpf_map_update_elem(&enrol_cgroup, &id, enrolment, BPF_ANY)) {
		count(COUNT_CGROUPS_FULL);
		return;
	}
	/* After the rule: whoever empties this one and then reads the rules has
	 * seen it. */
	named = bpf_map_lookup_elem(&named_filter, &zero);
	if (named)
		named->of[id & 63] = 1;
	count(COUNT_NAMED_CGROUP);
}

static __always_inline void judge_name(struct cgroup *cgrp, const char *path, __u32 rules)
{
	const char *name = BPF_CORE_READ(cgrp, kn, name);
	__u32 level = BPF_CORE_READ(cgrp, level);
	struct cgroup_text by_name, by_path;
	__u64 id = BPF_CORE_READ(cgrp, kn, id);
	char first = 0;

	/* systemd puts it before names that could be those of the kernel's files. */
	if (!bpf_probe_read_kernel(&first, 1, name) && first == '_')
		name++;
	take_text(&by_name, name);
	take_text(&by_path, path);
	for (__u32 i = 0; i < NAME_RULES; i++) {
		const struct cgroup_name *r;
		__u32 key = (rules >> 16) + i;

		if (i >= (rules & 0xffff))
			return;
		r = bpf_map_lookup_elem(&cgroup_names, &key);
		if (!r)
			return;
		if (!differs(r, &by_name, &by_path, level)) {
			add_rule(id, &r->enrolment);
			return;
		}
	}
}

static __always_inline void report_cgroup(struct cgroup *cgrp, const char *path)
{
	__u32 zero = 0, size;
	struct event *e = bpf_map_lookup_elem(&scratch, &zero);
	long n;

	if (!e)
		return;
	__builtin_memset(&e->head, 0, sizeof(e->head));
	e->head.kind = EVENT_CGROUP;
	e->head.time = bpf_ktime_get_boot_ns();
	e->head.cgroup = BPF_CORE_READ(cgrp, kn, id);
	n = bpf_probe_read_kernel_str(e->data, PATH_ROOM, path);
	if (n < 0 || n > PATH_ROOM)
		return;
	e->head.path_len = n;
	size = sizeof(e->head) + n;
	if (size > sizeof(*e) || bpf_ringbuf_output(&events, e, size, 0))
		count(COUNT_EVENTS_LOST);
}

/* Cgroups of the older hierarchies, which have numbers other than 0, are none of
 * ours. */
static __always_inline int on_mkdir(struct cgroup *cgrp, const char *path)
{
	const struct daemon_settings *s = load_settings();
	__u32 maker = bpf_get_current_pid_tgid() >> 32;

	if (!s || BPF_CORE_READ(cgrp, root, hierarchy_id))
		return 0;
	/* Who is in a tree can make any number: whom it puts there is of the tree, and
	 * must not take the room of others. */
	if (s->name_rules && !is_marked(maker))
		judge_name(cgrp, path, s->name_rules);
	if (s->cgroup_watch)
		report_cgroup(cgrp, path);
	return 0;
}

/* Nobody is in it any more. */
static __always_inline int on_rmdir(struct cgroup *cgrp)
{
	__u64 id;

	if (BPF_CORE_READ(cgrp, root, hierarchy_id))
		return 0;
	id = BPF_CORE_READ(cgrp, kn, id);
	bpf_map_delete_elem(&enrol_cgroup, &id);
	return 0;
}

SEC("tp_btf/cgroup_mkdir")
int BPF_PROG(headgate_mkdir, struct cgroup *cgrp, const char *path)
{
	return on_mkdir(cgrp, path);
}

SEC("tp_btf/cgroup_rmdir")
int BPF_PROG(headgate_rmdir, struct cgroup *cgrp, const char *path)
{
	return on_rmdir(cgrp);
}

SEC("raw_tp/cgroup_mkdir")
int BPF_PROG(headgate_mkdir_raw, struct cgroup *cgrp, const char *path)
{
	return on_mkdir(cgrp, path);
}

SEC("raw_tp/cgroup_rmdir")
int BPF_PROG(headgate_rmdir_raw, struct cgroup *cgrp, const char *path)
{
	return on_rmdir(cgrp);
}

#endif
