/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Every layout that the kernel side shares with userspace. The Go types are
 * generated from these; none is written by hand. Pinned maps outlive a daemon:
 * whoever changes a layout raises the ABI number in pkg/kernel.
 */
#ifndef HEADGATE_SHARED_H
#define HEADGATE_SHARED_H

#include "types.h"

/* What the destination tables say. NONE is not stored in them. */
enum verdict {
	VERDICT_NONE = 0,
	VERDICT_PROXY = 1,
	VERDICT_DIRECT = 2,
	VERDICT_DENY = 3,
};

/* One per-CPU counter for each way that a hook can end. Userspace takes the
 * names from here: "COUNT_DENIED_RULE" is reported as "denied_rule". Processes
 * that are not enrolled are not counted: their connects must cost nothing. Only
 * DENIED_BIND counts them too. */
enum counter {
	COUNT_REDIRECTED4,
	COUNT_REDIRECTED6,
	COUNT_REDIRECTED_MAPPED,
	COUNT_DIRECT,
	COUNT_LOOPBACK,
	COUNT_NOT_TCP,
	COUNT_DENIED_RULE,
	COUNT_DENIED_OWN_PORT,
	COUNT_DENIED_NO_LISTENER,
	COUNT_DENIED_FOREIGN_LISTENER,
	COUNT_DENIED_NO_POLICY,
	COUNT_DENIED_STALE,
	COUNT_DENIED_UNMARKED,
	COUNT_DENIED_BIND,
	COUNT_STORAGE_FAILED,
	COUNT_PUBLISHED,
	COUNT_DIVERTED,
	COUNT_INFLIGHT_FULL,
	COUNT_WITHDRAWN,
	COUNT_HANDED_OVER,
	COUNT_HANDOVER_MISSED,
	COUNT_HANDOVER_FAILED,
	COUNT_ENROLLED_UID,
	COUNT_ENROLLED_CGROUP,
	COUNT_FORKED,
	COUNT_PROCS_FULL,
	COUNT_EVENTS_LOST,
	COUNTERS,
};

/* An enrolled process. Times are boot-time nanoseconds. */
struct proc {
	__u64 start;
	__u64 exec_time; /* of the current image; 0: in place before anybody watched */
	__u64 root_start;
	__u64 parent_start;
	__u32 root_tgid;
	__u32 parent_tgid; /* 0 at the root of a tree */
	__u32 enrolment;
	__u32 _pad;
};

/* One byte for each of 64 consecutive tgids. Bytes and not bits: they need no
 * atomic operation, and arm64 has no atomic OR for BPF before Linux 5.18. */
#define MARKS_PER_LINE 64
#define MARK_LINES (4194304 / MARKS_PER_LINE) /* PID_MAX_LIMIT */

struct marks {
	__u8 of[MARKS_PER_LINE];
};

/* Written by the daemon alone, read by every hook. */
struct daemon_settings {
	__u64 daemon_start;
	__u64 daemon_cgroup;   /* 0: no cgroup is exempt */
	__u64 heartbeat;       /* boot-time clock of the last sign of life */
	__u64 heartbeat_limit; /* age at which it is stale; 0: not checked */
	__u64 generation;      /* of the destination tables; 0: never loaded, refuse */
	__u32 daemon_tgid;     /* 0: no process is exempt */
	__u32 uid_rules;       /* entries of enrol_uid: 0 saves the look-up */
	__u32 cgroup_rules;    /* entries of enrol_cgroup, likewise */
	__u32 _pad;
};

/* What connect wrote down. Addresses and ports are in network byte order; an
 * AF_INET address is kept v4-mapped. */
struct origin {
	__u32 addr[4];
	__u64 start;
	__u64 exec_time;
	__u64 root_start;
	__u64 cgroup;
	__u64 netns;
	__u64 cookie;
	__u64 time;
	__u32 tgid;
	__u32 tid;
	__u32 root_tgid;
	__u32 enrolment;
	__u32 uid;
	__u16 family; /* of the address that the application passed */
	__u16 port;
	__u16 proxy_port;
	__u8 published; /* the record went to inflight once; never again */
	__u8 _pad[5];
};

/* A connection on its way from connect to accept. */
struct flow {
	__u64 netns;
	__u32 addr[4]; /* source, v4-mapped, network byte order */
	__u32 port;    /* source, host byte order */
	__u32 _pad;
};

/* The proxy of a network namespace. The port stays guarded while nobody
 * listens on it: who takes it would be sent what agents say. */
struct listener {
	__u32 port; /* host byte order */
	__u32 open; /* 0: the proxy does not serve, refuse */
};

/* Keys of the destination tables. prefixlen counts the 16 bits of the port
 * first; port 0 stands for an entry that was made for any port. */
struct dest4_key {
	__u32 prefixlen;
	__u16 port; /* network byte order */
	__u8 addr[4];
	__u8 _pad[2];
};

struct dest6_key {
	__u32 prefixlen;
	__u16 port; /* network byte order */
	__u8 addr[16];
	__u8 _pad[2];
};

struct dest_value {
	enum verdict verdict;
};

enum event_kind {
	EVENT_FORK = 1,
	EVENT_EXEC = 2,
	EVENT_EXIT = 3,
	EVENT_ENROL = 4,
	EVENT_ALIVE = 5, /* only from the task iterator, never in the ring buffer */
};

enum event_flags {
	EVENT_HAS_IMAGE = 1,      /* path and argv are meant to be there */
	EVENT_PATH_CUT = 2,       /* the path is what execve was given, not the whole */
	EVENT_ARGV_TRUNCATED = 4, /* argv was longer, or could not be read */
};

struct event_header {
	__u64 time;
	__u64 start;
	__u64 parent_start;
	__u64 root_start;
	__u64 exec_time;
	__u64 cgroup;
	__u64 inode;
	__u32 device; /* the kernel's encoding: major << 20 | minor */
	__u32 tgid;
	__u32 parent_tgid;
	__u32 root_tgid;
	__u32 uid;
	__u32 enrolment;
	enum event_kind kind;
	enum event_flags flags;
	__u32 path_len;
	__u32 argv_len;
};

#define NAME_ROOM 256
#define PATH_ROOM 1024
#define ARGV_ROOM 4096

/* The path's components, nearest first, each ended by NUL; then argv. */
struct event {
	struct event_header head;
	__u8 data[PATH_ROOM + NAME_ROOM + ARGV_ROOM];
};

#endif
