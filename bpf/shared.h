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
	VERDICT_OBSERVED = 4, /* as DIRECT, and reported as what would be refused */
};

/* One per-CPU counter for each way that a hook can end. Userspace takes the
 * names from here: "COUNT_DENIED_RULE" is reported as "denied_rule". Every
 * connect and every addressed datagram of an enrolled process ends in exactly
 * one of REDIRECTED_*, DIRECT*, LOOPBACK*, PASSED_OPEN, OBSERVED, DEFERRED_UDP
 * or DENIED_*.
 * Processes that are not enrolled are not counted: their connects must cost
 * nothing. Only DENIED_BIND counts them too. */
enum counter {
	COUNT_REDIRECTED4,
	COUNT_REDIRECTED6,
	COUNT_REDIRECTED_MAPPED,
	COUNT_REDIRECTED_UDP,
	COUNT_DIRECT,
	COUNT_DIRECT_UDP,
	COUNT_LOOPBACK,
	COUNT_LOOPBACK_UDP,
	COUNT_PASSED_OPEN,
	COUNT_OBSERVED,
	COUNT_DEFERRED_UDP,
	COUNT_UNIX,
	COUNT_DENIED_RULE,
	COUNT_DENIED_METADATA,
	COUNT_DENIED_OWN_PORT,
	COUNT_DENIED_UDP,
	COUNT_DENIED_PROTOCOL,
	COUNT_DENIED_SOCKET_TYPE,
	COUNT_DENIED_UNIX,
	COUNT_DENIED_EGRESS,
	COUNT_DENIED_NO_LISTENER,
	COUNT_DENIED_FOREIGN_LISTENER,
	COUNT_DENIED_SHARE,
	COUNT_DENIED_NO_POLICY,
	COUNT_DENIED_STALE,
	COUNT_DENIED_UNMARKED,
	COUNT_DENIED_BIND,
	COUNT_STORAGE_FAILED,
	COUNT_DIRECT_LOST,
	COUNT_PUBLISHED,
	COUNT_DIVERTED,
	COUNT_INFLIGHT_FULL,
	COUNT_WITHDRAWN,
	COUNT_HANDED_OVER,
	COUNT_HANDOVER_MISSED,
	COUNT_HANDOVER_FAILED,
	COUNT_ENROLLED_UID,
	COUNT_ENROLLED_CGROUP,
	COUNT_ENROLLED_EXE,
	COUNT_NAMED_CGROUP,
	COUNT_CGROUPS_FULL,
	COUNT_FORKED,
	COUNT_PROCS_FULL,
	COUNT_EVENTS_LOST,
	COUNT_REFUSALS_LOST,
	COUNT_HARDENED_SOCKET,
	COUNT_HARDENED_UNIX,
	COUNT_HARDENED_BPF,
	COUNT_HARDENED_PTRACE,
	COUNT_HARDENED_KILL,
	COUNT_HARDENED_UMOUNT,
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
	__u64 cgroup_filter;   /* bit N: a rule's cgroup has a number that is N modulo 64 */
	__u64 generation;      /* of the destination tables; 0: never loaded, refuse */
	__u32 daemon_tgid;     /* 0: no process is exempt */
	__u32 uid_rules;       /* entries of enrol_uid: 0 saves the look-up */
	__u32 cgroup_rules;    /* entries of enrol_cgroup, likewise */
	__u32 exe_rules;       /* entries of enrol_exe, likewise */
	__u32 cgroup_watch;    /* 1: report new cgroups */
	__u32 fail_open;       /* 1: when nobody mediates, let pass; 0: refuse */
	__u32 observe;         /* 1: what no rule decides is reported, not refused */
	__u32 name_rules;      /* entries of cgroup_names in force: the first << 16 | how many */
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

/* What was decided about the connection of a socket that an enrolled process
 * created or used. It is for the egress program, which cannot know the caller.
 * Datagrams are judged there by where they go, whatever was decided before. */
enum settled {
	SETTLED_NOTHING = 0, /* nothing may leave */
	SETTLED_PASS = 1,
};

/* A connection on its way from connect to accept, or a socket that sends
 * datagrams to the resolver. */
struct flow {
	__u64 netns;
	__u32 addr[4]; /* source, v4-mapped, network byte order */
	__u32 port;    /* source, host byte order */
	__u32 _pad;
};

/* What one tree may have in inflight, and in datagrams, at a time: a sixteenth. */
#define SHARE 4096
#define SHARE_BITS 12

/* Entries of the trees that a slot is for. */
struct share {
	__s64 inflight;
	__s64 datagrams;
};

/* linux/bpf.h */
struct bpf_spin_lock {
	__u32 val;
};

struct owned {
	struct flow sends_as; /* the key in datagrams, if published */
	__u64 cookie;         /* of that entry */
	__u64 netns;
	__u64 start;
	__u64 root_start;
	__u64 reported; /* boot-time clock of the last report of a drop */
	__u64 since;    /* monotonic clock of the connect that went as asked */
	__u64 rule;     /* that let it: as in dest_value */
	__u32 tgid;
	__u32 root_tgid;
	__u32 enrolment;
	__u32 uid;
	enum settled settled;
	struct bpf_spin_lock lock; /* of sends_as, cookie and published */
	__u8 published;
	__u8 direct; /* enum direct */
	__u8 _pad[2];
	__u32 generation; /* of the destinations that let the connection go */
};

/* How far a TCP connection has come that a rule lets go as asked. */
enum direct {
	DIRECT_NO = 0, /* no such connection, or it is counted */
	DIRECT_ASKED,
	DIRECT_BEGUN,
	DIRECT_OPEN,
};

/* What the connections that a rule let go as asked came to. All but begun is of
 * those that have ended. Nanoseconds of many at a time would wrap within weeks. */
struct direct_total {
	__u64 begun; /* established */
	__u64 flows;
	__u64 up;   /* bytes that the other side has acknowledged */
	__u64 down; /* bytes that came from it */
	__u64 microseconds;
};

/* How many rules are told apart, and the key for what is beyond. */
#define DIRECT_RULES 1024
#define OTHER_RULES (~0ULL)

/* The proxy of a network namespace. The port stays guarded while nobody
 * listens on it: who takes it would be sent what agents say. */
struct listener {
	__u32 port; /* host byte order */
	__u32 open; /* 0: the proxy does not serve, refuse */
};

enum transport {
	TRANSPORT_TCP = 1,
	TRANSPORT_UDP = 2,
};

/* Keys of the destination tables. prefixlen counts the 32 bits ahead of the
 * address too. Entries of a generation take effect together, when the settings
 * name it. Port 0 stands for an entry that was made for any port. */
struct dest4_key {
	__u32 prefixlen;
	__u8 generation; /* the lowest byte of the settings' */
	__u8 transport;
	__u16 port; /* network byte order */
	__u8 addr[4];
};

struct dest6_key {
	__u32 prefixlen;
	__u8 generation;
	__u8 transport;
	__u16 port; /* network byte order */
	__u8 addr[16];
};

struct dest_value {
	enum verdict verdict;
	enum counter why; /* of a denial, or of what is observed */
	__u64 rule;       /* userspace's number for the rule that says so; 0: none */
};

/* An executable file; device in the kernel's encoding. */
struct exe_key {
	__u64 inode;
	__u32 device;
	__u32 _pad;
};

/* What a cgroup's name, or its path, begins and ends with. The masks leave out
 * the bytes that the rule says nothing about. */
#define NAME_RULES 48
#define NAME_HEAD 128
#define NAME_TAIL 32

struct cgroup_name {
	__u64 head[NAME_HEAD / 8];
	__u64 head_mask[NAME_HEAD / 8];
	__u64 tail[NAME_TAIL / 8];
	__u64 tail_mask[NAME_TAIL / 8];
	__u64 by_path; /* all ones: the path counts, of a cgroup at that level; 0: the name alone */
	__u64 level;
	__u64 min_len; /* at least 1: what could not be read is empty */
	__u64 max_len;
	__u32 enrolment;
	__u32 _pad;
};

/* sun_path of struct sockaddr_un. An abstract name begins with '@' here. */
#define UNIX_PATH 108
#define UNIX_FILE 64

/* A name of a unix socket, or its beginning: prefixlen in bits. The NUL that
 * ends a name belongs to it, so that a whole name is no beginning. */
struct unix_path_key {
	__u32 prefixlen;
	__u8 name[UNIX_PATH];
};

struct unix_file_key {
	__u32 prefixlen;
	__u8 name[UNIX_FILE];
};

struct name_value {
	enum verdict verdict;
	__u32 whole; /* 1: of a whole path; the file's name is not asked about */
	__u64 rule;  /* as in dest_value */
};

enum event_kind {
	EVENT_FORK = 1,
	EVENT_EXEC = 2,
	EVENT_EXIT = 3,
	EVENT_ENROL = 4,
	EVENT_ALIVE = 5, /* only from the task iterator, never in the ring buffer */
	EVENT_CGROUP = 6, /* a cgroup was made: its number in cgroup, its path as path */
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
	__u64 netns; /* cookie of the network namespace; of execs alone */
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

/* What an enrolled process was refused. Losing one never changes a verdict. */
struct refusal {
	__u64 time;
	__u64 start;
	__u64 root_start;
	__u64 netns;
	__u64 cgroup;
	__u64 rule;    /* as in dest_value */
	__u32 addr[4]; /* network byte order, v4 as v4-mapped; zero if there is none */
	__u32 tgid;
	__u32 root_tgid; /* 0: procs had no room for the process */
	__u32 enrolment;
	__u32 uid;
	enum counter reason;
	__u32 family;
	__u32 type;
	__u32 protocol;
	__u16 port; /* network byte order */
	__u8 path_len;
	__u8 observed; /* it was let through */
	__u8 path[UNIX_PATH];
};

#endif
