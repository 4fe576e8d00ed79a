/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The life of enrolled processes: a mark is copied at fork, in the parent's
 * context and before the child can run, and lasts until the process is gone.
 * Events tell userspace; losing one never changes a verdict.
 *
 * Each hook exists as tp_btf and as raw_tp, for environments that refuse the
 * first; the bodies read kernel memory only through bpf_probe_read_kernel, so
 * that both can use them. The loader takes one set.
 */
#ifndef HEADGATE_PROCESS_H
#define HEADGATE_PROCESS_H

#include "enrolment.h"
#include "image.h"

#include <bpf/bpf_tracing.h>

/* A tgid that is used again must not inherit from its earlier owner, whose
 * exit may have gone unseen. */
static __always_inline void forget(__u32 tgid)
{
	set_mark(tgid, 0);
	bpf_map_delete_elem(&procs, &tgid);
}

static __always_inline int on_fork(struct task_struct *child)
{
	struct caller parent = current_caller();
	__u32 tgid = BPF_CORE_READ(child, tgid);
	struct proc *p, c;

	/* A thread: the mark is the process's. */
	if (BPF_CORE_READ(child, pid) != tgid)
		return 0;
	p = find_proc(&parent);
	if (!p) {
		forget(tgid);
		/* The parent is refused for want of room; so is its child. */
		if (is_marked(parent.tgid))
			set_mark(tgid, 1);
		return 0;
	}
	set_mark(tgid, 1);
	c = *p;
	c.start = BPF_CORE_READ(child, start_boottime);
	c.parent_tgid = parent.tgid;
	c.parent_start = parent.start;
	count(COUNT_FORKED);
	if (bpf_map_update_elem(&procs, &tgid, &c, BPF_ANY)) {
		/* Whatever an earlier owner left would not match the start time. */
		count(COUNT_PROCS_FULL);
		return 0;
	}
	announce(EVENT_FORK, tgid, &c);
	return 0;
}

static __always_inline int on_exec(struct task_struct *task, struct linux_binprm *bprm)
{
	const struct daemon_settings *s = load_settings();
	struct caller c = current_caller();
	enum event_kind kind = EVENT_EXEC;
	__u64 now = bpf_ktime_get_boot_ns();
	struct exe_key exe = {};
	__u32 *enrolment;
	struct proc *p;

	p = find_proc(&c);
	if (p) {
		p->exec_time = now;
	} else {
		/* Refused for want of room, and it stays so. */
		if (!s || is_marked(c.tgid))
			return 0;
		exe.inode = BPF_CORE_READ(task, mm, exe_file, f_inode, i_ino);
		exe.device = BPF_CORE_READ(task, mm, exe_file, f_inode, i_sb, s_dev);
		enrolment = matching_rule(s, &exe);
		if (!enrolment)
			return 0;
		p = enrol_as_root(&c, *enrolment, now);
		if (!p)
			return 0;
		kind = EVENT_ENROL;
	}
	announce_image(kind, c.tgid, p, task, bprm);
	return 0;
}

static __always_inline int on_exit(struct task_struct *task)
{
	struct caller c = current_caller();
	struct proc *p;

	/* Other threads live on. When the last two leave together both may see
	 * zero: the second finds nothing. */
	if (BPF_CORE_READ(task, signal, live.counter) > 0)
		return 0;
	p = find_proc(&c);
	if (p)
		announce(EVENT_EXIT, c.tgid, p);
	else if (!is_marked(c.tgid))
		return 0;
	forget(c.tgid);
	return 0;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(headgate_fork, struct task_struct *parent, struct task_struct *child)
{
	return on_fork(child);
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(headgate_exec, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	return on_exec(task, bprm);
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(headgate_exit, struct task_struct *task)
{
	return on_exit(task);
}

SEC("raw_tp/sched_process_fork")
int BPF_PROG(headgate_fork_raw, struct task_struct *parent, struct task_struct *child)
{
	return on_fork(child);
}

SEC("raw_tp/sched_process_exec")
int BPF_PROG(headgate_exec_raw, struct task_struct *task, int old_pid, struct linux_binprm *bprm)
{
	return on_exec(task, bprm);
}

SEC("raw_tp/sched_process_exit")
int BPF_PROG(headgate_exit_raw, struct task_struct *task)
{
	return on_exit(task);
}

/* headgate_tasks lists the living processes with their exact start times;
 * /proc rounds them to 10 ms. */
SEC("iter/task")
int headgate_tasks(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	struct event_header h = {.kind = EVENT_ALIVE};

	/* The end of the list, a thread, or a zombie. */
	if (!task || task->pid != task->tgid || task->signal->live.counter <= 0)
		return 0;
	h.start = task->start_boottime;
	h.tgid = task->tgid;
	h.parent_tgid = task->real_parent->tgid;
	h.parent_start = task->real_parent->group_leader->start_boottime;
	bpf_seq_write(ctx->meta->seq, &h, sizeof(h));
	return 0;
}

#endif
