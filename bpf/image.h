/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* What a process executes: the path of the file, its inode, and argv. */
#ifndef HEADGATE_IMAGE_H
#define HEADGATE_IMAGE_H

#include "enrolment.h"

/* Components of a path, mounts crossed included. */
#define PATH_STEPS 32

/* path_of writes the components from the file up to the root, each ended by
 * NUL, and returns their length; 0 if the path is longer than the bounds. It
 * walks dentries and mounts by hand: bpf_d_path may not be called here. */
static __always_inline __u32 path_of(struct file *file, struct event *e)
{
	struct dentry *dentry = BPF_CORE_READ(file, f_path.dentry);
	struct vfsmount *vfs = BPF_CORE_READ(file, f_path.mnt);
	struct mount *mnt = (void *)vfs - bpf_core_field_offset(struct mount, mnt);
	__u32 len = 0;

	for (int i = 0; i < PATH_STEPS; i++) {
		struct dentry *parent = BPF_CORE_READ(dentry, d_parent);
		const unsigned char *name;
		__u32 at;
		long n;

		if (dentry == BPF_CORE_READ(mnt, mnt.mnt_root)) {
			struct mount *up = BPF_CORE_READ(mnt, mnt_parent);

			/* The root of the namespace. */
			if (up == mnt)
				return len;
			dentry = BPF_CORE_READ(mnt, mnt_mountpoint);
			mnt = up;
			continue;
		}
		name = BPF_CORE_READ(dentry, d_name.name);
		at = len;
		/* The register that is compared has to be the one that is used:
		 * Linux 6.1 learns nothing about a copy of it on the stack. */
		barrier_var(at);
		if (at > PATH_ROOM)
			return 0;
		n = bpf_probe_read_kernel_str(&e->data[at], NAME_ROOM, name);
		if (n <= 0 || n > NAME_ROOM)
			return 0;
		len = at + n;
		/* A file without a place in any tree, as memfd_create makes it. */
		if (dentry == parent)
			return len;
		dentry = parent;
	}
	return 0;
}

static __always_inline __u32 filename_of(struct linux_binprm *bprm, struct event *e)
{
	long n = bpf_probe_read_kernel_str(e->data, PATH_ROOM, BPF_CORE_READ(bprm, filename));

	return n > 0 && n <= PATH_ROOM ? n : 0;
}

/* argv_of reads the arguments as execve laid them out: NUL after each. */
static __always_inline __u32 argv_of(struct mm_struct *mm, struct event *e)
{
	unsigned long start = BPF_CORE_READ(mm, arg_start);
	unsigned long size = BPF_CORE_READ(mm, arg_end) - start;
	__u32 at = e->head.path_len;
	__u32 len = size;

	if (size > ARGV_ROOM) {
		len = ARGV_ROOM;
		e->head.flags |= EVENT_ARGV_TRUNCATED;
	}
	if (at > PATH_ROOM + NAME_ROOM || len > ARGV_ROOM ||
	    bpf_probe_read_user(&e->data[at], len, (void *)start)) {
		e->head.flags |= EVENT_ARGV_TRUNCATED;
		return 0;
	}
	return len;
}

static __always_inline void announce_image(enum event_kind kind, __u32 tgid, const struct proc *p,
					   struct task_struct *task, struct linux_binprm *bprm)
{
	struct mm_struct *mm = BPF_CORE_READ(task, mm);
	struct file *file = BPF_CORE_READ(mm, exe_file);
	__u32 zero = 0, size;
	struct event *e = bpf_map_lookup_elem(&scratch, &zero);

	if (!e)
		return;
	describe(&e->head, kind, tgid, p);
	e->head.time = p->exec_time;
	e->head.flags = EVENT_HAS_IMAGE;
	e->head.netns = BPF_CORE_READ(task, nsproxy, net_ns, net_cookie);
	e->head.inode = BPF_CORE_READ(file, f_inode, i_ino);
	e->head.device = BPF_CORE_READ(file, f_inode, i_sb, s_dev);
	e->head.path_len = path_of(file, e);
	if (!e->head.path_len) {
		e->head.flags |= EVENT_PATH_CUT;
		e->head.path_len = filename_of(bprm, e);
	}
	e->head.argv_len = argv_of(mm, e);
	size = sizeof(e->head) + e->head.path_len + e->head.argv_len;
	if (size > sizeof(*e) || bpf_ringbuf_output(&events, e, size, 0))
		count(COUNT_EVENTS_LOST);
}

#endif
