/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * The hardening tier: LSM programs that close the ways out which no cgroup hook
 * sees, and keep an enrolled process from turning the gate off. Optional: they
 * load where the kernel has CONFIG_BPF_LSM and lists bpf among its active
 * LSMs (on arm64 from Linux 6.4). Whoever is not enrolled pays one look-up and
 * is never refused.
 *
 * A mark decides, as in connect: also for a descendant that procs had no room
 * for. A process that falls under a rule is marked at its exec or its first
 * connect, not here: these hooks may run where nothing should be announced.
 *
 * In all of these 0 lets the call go on, and what an earlier program refused
 * stays refused.
 */
#ifndef HEADGATE_HARDEN_H
#define HEADGATE_HARDEN_H

#include "refusal.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#define EPERM 1

/* sys/socket.h, netinet/in.h. Those of types.h are not repeated. */
#define HARDEN_AF_UNIX 1
#define HARDEN_AF_NETLINK 16

/* linux/ptrace.h, linux/magic.h */
#define HARDEN_PTRACE_MODE_ATTACH 2
#define HARDEN_BPF_FS_MAGIC 0xcafe4a11
#define HARDEN_SYSFS_MAGIC 0x62656572

/* Kernel types that types.h lacks, or lacks fields of. What follows the three
 * underscores is not part of the name that the loader looks for. */
#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct super_block___harden {
	unsigned long s_magic;
	__u32 s_dev;
};

struct inode___harden {
	unsigned long i_ino;
	struct super_block___harden *i_sb;
};

struct dentry___harden {
	struct inode___harden *d_inode;
};

struct path___harden {
	struct dentry___harden *dentry;
};

struct vfsmount___harden {
	struct super_block___harden *mnt_sb;
};

struct unix_sock___harden {
	struct path___harden path;
};

struct socket___harden {
	struct unix_sock___harden *sk;
};

#pragma clang attribute pop

struct cred;
struct kernel_siginfo;
struct sock;
struct socket;

/* A unix socket in the file system. It stays the same one in every mount
 * namespace and under every name. */
struct socket_file {
	__u64 inode;
	__u32 device; /* of its file system, in the kernel's encoding: major << 20 | minor */
	__u32 _pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct socket_file);
	__type(value, __u32); /* for userspace: which rule */
} denied_sockets SEC(".maps");

/* is_held tells whether the caller belongs to a tree. */
static __always_inline int is_held(const struct caller *c)
{
	const struct daemon_settings *s;

	if (!is_marked(c->tgid))
		return 0;
	s = load_settings();
	/* The exemption of the daemon goes before any mark, as in connect. */
	return !s || !is_daemon(s, c);
}

/* hardened refuses, counts and reports. */
static __always_inline int hardened(enum counter why, const struct attempt *a)
{
	struct caller c = current_caller();

	refuse(why, &c, find_proc(&c), a, NULL);
	return -EPERM;
}

static __always_inline int hardened_deed(enum counter why)
{
	struct attempt a = {};

	return hardened(why, &a);
}

static __always_inline int caller_is_held(void)
{
	struct caller c = current_caller();

	return is_held(&c);
}

/* caller_is_ruled leaves out who is only observed where no rule decides. */
static __always_inline int caller_is_ruled(void)
{
	const struct daemon_settings *s = load_settings();

	return caller_is_held() && !(s && s->observe);
}

static __always_inline struct caller caller_of(struct task_struct *task)
{
	struct caller c = {
		.start = task->group_leader->start_boottime,
		.tgid = task->tgid,
	};

	return c;
}

/* The process itself, not its cgroup: others in the cgroup may be traced and
 * signalled. */
static __always_inline int is_daemon_process(const struct caller *c)
{
	const struct daemon_settings *s = load_settings();

	return s && s->daemon_tgid && s->daemon_tgid == c->tgid && s->daemon_start == c->start;
}

/* same_tree is false for a process that procs had no room for: nobody knows
 * what tree it is of. */
static __always_inline int same_tree(const struct caller *a, const struct caller *b)
{
	struct proc *p = find_proc(a), *q = find_proc(b);

	return p && q && p->root_tgid == q->root_tgid && p->root_start == q->root_start;
}

/* is_seen tells whether the cgroup hooks judge sockets of the family, or whether
 * they lead nowhere off the host. Netlink is of the second kind, and name
 * look-ups need it. SOCK_PACKET arrives here as AF_PACKET. */
static __always_inline int is_seen(int family)
{
	return family == HARDEN_AF_UNIX || family == HARDEN_AF_NETLINK || family == AF_INET || family == AF_INET6;
}

static __always_inline int is_denied_socket(struct unix_sock___harden *peer)
{
	struct inode___harden *inode = BPF_CORE_READ(peer, path.dentry, d_inode);
	struct socket_file key = {};

	/* An abstract name, or none: not in the file system. */
	if (!inode)
		return 0;
	key.inode = BPF_CORE_READ(inode, i_ino);
	key.device = BPF_CORE_READ(inode, i_sb, s_dev);
	return bpf_map_lookup_elem(&denied_sockets, &key) != NULL;
}

static __always_inline int is_on_bpffs(struct inode *dir)
{
	struct inode___harden *inode = (void *)dir;

	return BPF_CORE_READ(inode, i_sb, s_magic) == HARDEN_BPF_FS_MAGIC;
}

SEC("lsm/socket_create")
int BPF_PROG(headgate_lsm_socket, int family, int type, int protocol, int kern, int ret)
{
	struct attempt a = {.family = family, .type = type, .protocol = protocol};

	/* Refused already. */
	if (ret)
		return ret;
	/* The kernel's own, made while a process happens to run; or nobody's of ours. */
	if (kern || is_seen(family) || !caller_is_ruled())
		return 0;
	return hardened(COUNT_HARDENED_SOCKET, &a);
}

SEC("lsm/unix_stream_connect")
int BPF_PROG(headgate_lsm_stream, struct sock *sock, struct sock *peer, struct sock *accepted, int ret)
{
	/* Refused already. */
	if (ret)
		return ret;
	/* Not one of ours, or a socket that no rule denies. */
	if (!caller_is_held() || !is_denied_socket((void *)peer))
		return 0;
	return hardened_deed(COUNT_HARDENED_UNIX);
}

/* For datagram sockets: at connect, and at each message to a named peer. */
SEC("lsm/unix_may_send")
int BPF_PROG(headgate_lsm_send, struct socket *sock, struct socket *peer, int ret)
{
	struct socket___harden *p = (void *)peer;

	/* Refused already. */
	if (ret)
		return ret;
	/* Not one of ours, or a socket that no rule denies. */
	if (!caller_is_held() || !is_denied_socket(BPF_CORE_READ(p, sk)))
		return 0;
	return hardened_deed(COUNT_HARDENED_UNIX);
}

/* The earlier result is not read here: Linux 6.15 gave the hook one more
 * argument, so its place differs. The kernel doesn't call a program after one
 * that refused. */
SEC("lsm/bpf")
int BPF_PROG(headgate_lsm_bpf, int cmd)
{
	/* Not one of ours. */
	if (!caller_is_held())
		return 0;
	return hardened_deed(COUNT_HARDENED_BPF);
}

/* Attaching covers ptrace, /proc/PID/mem, process_vm_writev and pidfd_getfd.
 * Reading what /proc tells of others stays as it was, the daemon's excepted. */
SEC("lsm/ptrace_access_check")
int BPF_PROG(headgate_lsm_ptrace, struct task_struct *child, unsigned int mode, int ret)
{
	struct caller c, target;

	/* Refused already. */
	if (ret)
		return ret;
	c = current_caller();
	/* Not one of ours. */
	if (!is_held(&c))
		return 0;
	target = caller_of(child);
	if (!(mode & HARDEN_PTRACE_MODE_ATTACH)) {
		if (!is_daemon_process(&target))
			return 0;
		/* ps and top look at everybody: nothing to report. */
		count(COUNT_HARDENED_PTRACE);
		return -EPERM;
	}
	/* At home. */
	if (same_tree(&c, &target))
		return 0;
	return hardened_deed(COUNT_HARDENED_PTRACE);
}

/* The kernel asks only for signals that a process sends. Signal 0 is refused
 * too: it says that the daemon lives, which the agent need not know. */
SEC("lsm/task_kill")
int BPF_PROG(headgate_lsm_kill, struct task_struct *target, struct kernel_siginfo *info, int sig,
	     const struct cred *cred, int ret)
{
	struct caller t;

	/* Refused already. */
	if (ret)
		return ret;
	t = caller_of(target);
	/* Somebody else, or from somebody else. */
	if (!is_daemon_process(&t) || !caller_is_held())
		return 0;
	return hardened_deed(COUNT_HARDENED_KILL);
}

/* A lazy unmount of /sys would take the pins' file system with it. */
SEC("lsm/sb_umount")
int BPF_PROG(headgate_lsm_umount, struct vfsmount *mnt, int flags, int ret)
{
	struct vfsmount___harden *m = (void *)mnt;
	unsigned long magic;

	/* Refused already. */
	if (ret)
		return ret;
	magic = BPF_CORE_READ(m, mnt_sb, s_magic);
	/* No pins there, or not one of ours. */
	if ((magic != HARDEN_BPF_FS_MAGIC && magic != HARDEN_SYSFS_MAGIC) || !caller_is_held())
		return 0;
	return hardened_deed(COUNT_HARDENED_UMOUNT);
}

/* Removing the last pin of a link detaches its program. */
SEC("lsm/inode_unlink")
int BPF_PROG(headgate_lsm_unlink, struct inode *dir, struct dentry *dentry, int ret)
{
	/* Refused already. */
	if (ret)
		return ret;
	/* No pin, or not one of ours. */
	if (!is_on_bpffs(dir) || !caller_is_held())
		return 0;
	return hardened_deed(COUNT_HARDENED_UMOUNT);
}

/* A rename puts one pin in the place of another, or where no daemon looks. */
SEC("lsm/inode_rename")
int BPF_PROG(headgate_lsm_rename, struct inode *from, struct dentry *old, struct inode *to,
	     struct dentry *new, int ret)
{
	/* Refused already. */
	if (ret)
		return ret;
	/* No pin, or not one of ours. */
	if (!is_on_bpffs(from) || !caller_is_held())
		return 0;
	return hardened_deed(COUNT_HARDENED_UMOUNT);
}

#endif
