/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* Who is calling, and does it belong to an enrolled tree? */
#ifndef HEADGATE_ENROLMENT_H
#define HEADGATE_ENROLMENT_H

#include "maps.h"

#include <bpf/bpf_core_read.h>

/* Levels of the cgroup tree that a rule can match at. The own cgroup is
 * matched at any depth. */
#define CGROUP_LEVELS 16

struct caller {
	__u64 start;
	__u32 tgid;
	__u32 tid;
};

/* current_caller names the calling process. The start time is that of the
 * group leader: with it, a recycled tgid cannot stand for somebody else. An
 * io_uring worker is a thread of the process that it works for. */
static __always_inline struct caller current_caller(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u64 id = bpf_get_current_pid_tgid();
	struct caller c = {
		.start = task->group_leader->start_boottime,
		.tgid = id >> 32,
		.tid = (__u32)id,
	};

	return c;
}

static __always_inline __u8 *mark_of(__u32 tgid)
{
	__u32 line = tgid / MARKS_PER_LINE;
	struct marks *m = bpf_map_lookup_elem(&marked, &line);

	return m ? &m->of[tgid % MARKS_PER_LINE] : NULL;
}

/* A tgid beyond PID_MAX_LIMIT cannot be; if it is, it counts as marked. */
static __always_inline int is_marked(__u32 tgid)
{
	__u8 *mark = mark_of(tgid);

	return !mark || *mark;
}

static __always_inline void set_mark(__u32 tgid, __u8 value)
{
	__u8 *mark = mark_of(tgid);

	if (mark)
		*mark = value;
}

static __always_inline struct proc *find_proc(const struct caller *c)
{
	__u32 tgid = c->tgid;
	struct proc *p = bpf_map_lookup_elem(&procs, &tgid);

	return p && p->start == c->start ? p : NULL;
}

static __always_inline const struct daemon_settings *load_settings(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&settings, &zero);
}

static __always_inline int is_stale(const struct daemon_settings *s)
{
	__u64 now = bpf_ktime_get_boot_ns();

	return s->heartbeat_limit && now > s->heartbeat && now - s->heartbeat > s->heartbeat_limit;
}

static __always_inline int is_daemon(const struct daemon_settings *s, const struct caller *c)
{
	if (s->daemon_tgid && s->daemon_tgid == c->tgid && s->daemon_start == c->start)
		return 1;
	return s->daemon_cgroup && s->daemon_cgroup == bpf_get_current_cgroup_id();
}

/* Most processes are in no cgroup that a rule names. Finding that out must cost
 * little: the filter spares the look-ups. */
static __always_inline __u32 *rule_of_cgroup(__u64 filter, const struct marks *named, __u64 id)
{
	if (!((filter >> (id & 63) & 1) | named->of[id & 63]))
		return NULL;
	return bpf_map_lookup_elem(&enrol_cgroup, &id);
}

static __always_inline __u32 *cgroup_rule(const struct daemon_settings *s)
{
	struct task_struct *task = bpf_get_current_task_btf();
	int own = task->cgroups->dfl_cgrp->level;
	__u32 *enrolment, zero = 0;
	__u64 filter = s->cgroup_filter;
	struct marks *named;

	named = bpf_map_lookup_elem(&named_filter, &zero);
	/* Of an array that cannot be. */
	if (!named)
		return NULL;
	enrolment = rule_of_cgroup(filter, named, bpf_get_current_cgroup_id());
	if (enrolment)
		return enrolment;
	/* From the nearest ancestor up: the narrowest rule wins. */
	for (int level = CGROUP_LEVELS - 1; level >= 0; level--) {
		/* The own one, and what would be below it. */
		if (level >= own)
			continue;
		enrolment = rule_of_cgroup(filter, named, bpf_get_current_ancestor_cgroup_id(level));
		if (enrolment)
			return enrolment;
	}
	return NULL;
}

/* matching_rule returns the enrolment of the rule that the calling process
 * falls under, or NULL. exe is what it is about to execute, or NULL. */
static __always_inline __u32 *matching_rule(const struct daemon_settings *s,
					    const struct exe_key *exe)
{
	__u32 *enrolment = NULL;

	if (s->uid_rules) {
		__u32 uid = (__u32)bpf_get_current_uid_gid();

		enrolment = bpf_map_lookup_elem(&enrol_uid, &uid);
		if (enrolment) {
			count(COUNT_ENROLLED_UID);
			return enrolment;
		}
	}
	if (s->cgroup_rules || s->name_rules) {
		enrolment = cgroup_rule(s);
		if (enrolment) {
			count(COUNT_ENROLLED_CGROUP);
			return enrolment;
		}
	}
	if (exe && s->exe_rules) {
		enrolment = bpf_map_lookup_elem(&enrol_exe, exe);
		if (enrolment)
			count(COUNT_ENROLLED_EXE);
	}
	return enrolment;
}

/* enrol_as_root makes the calling process the root of a new tree. The mark is
 * set first: when procs is full, the process is refused from now on. */
static __always_inline struct proc *enrol_as_root(const struct caller *c, __u32 enrolment,
						  __u64 exec_time)
{
	__u32 tgid = c->tgid;
	struct proc p = {
		.start = c->start,
		.exec_time = exec_time,
		.root_start = c->start,
		.root_tgid = c->tgid,
		.enrolment = enrolment,
	};

	set_mark(tgid, 1);
	if (bpf_map_update_elem(&procs, &tgid, &p, BPF_ANY)) {
		count(COUNT_PROCS_FULL);
		return NULL;
	}
	return bpf_map_lookup_elem(&procs, &tgid);
}

static __always_inline void describe(struct event_header *h, enum event_kind kind, __u32 tgid,
				     const struct proc *p)
{
	h->time = bpf_ktime_get_boot_ns();
	h->start = p->start;
	h->parent_start = p->parent_start;
	h->root_start = p->root_start;
	h->exec_time = p->exec_time;
	h->cgroup = bpf_get_current_cgroup_id();
	h->netns = 0;
	h->inode = 0;
	h->device = 0;
	h->tgid = tgid;
	h->parent_tgid = p->parent_tgid;
	h->root_tgid = p->root_tgid;
	h->uid = (__u32)bpf_get_current_uid_gid();
	h->enrolment = p->enrolment;
	h->kind = kind;
	h->flags = 0;
	h->path_len = 0;
	h->argv_len = 0;
}

static __always_inline void announce(enum event_kind kind, __u32 tgid, const struct proc *p)
{
	struct event_header h;

	describe(&h, kind, tgid, p);
	if (bpf_ringbuf_output(&events, &h, sizeof(h), 0))
		count(COUNT_EVENTS_LOST);
}

enum membership {
	OUTSIDER = 0, /* in no tree: not our business */
	MEMBER,
	NO_ROOM, /* in a tree, but procs has no entry for it: refused */
};

/* member_of tells whether the caller belongs to a tree, and makes it the root of
 * one if a rule says so. *found is set for a MEMBER. */
static __always_inline enum membership member_of(const struct daemon_settings *s,
						 const struct caller *c, struct proc **found)
{
	__u32 *enrolment;
	struct proc *p;

	/* The mark is one read; procs is asked about who has one. */
	if (is_marked(c->tgid)) {
		p = find_proc(c);
		if (!p)
			return NO_ROOM;
	} else {
		enrolment = matching_rule(s, NULL);
		if (!enrolment)
			return OUTSIDER;
		p = enrol_as_root(c, *enrolment, 0);
		if (!p)
			return NO_ROOM;
		announce(EVENT_ENROL, c->tgid, p);
	}
	*found = p;
	return MEMBER;
}

#endif
