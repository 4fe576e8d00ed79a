/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* The maps, in the order in which a connection meets them. Nothing that
 * security depends on is in an LRU map: an evicted entry would be a way out. */
#ifndef HEADGATE_MAPS_H
#define HEADGATE_MAPS_H

#include "shared.h"

#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct daemon_settings);
} settings SEC(".maps");

/* Preallocated: fork inserts from a tracepoint, where memory may not be had.
 * Userspace sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, __u32); /* tgid */
	__type(value, struct proc);
} procs SEC(".maps");

/* Every descendant of an enrolled process, also when procs had no room for it.
 * Marked and not in procs means: refused. Userspace sets marks through a memory
 * mapping: writing an element would put back its neighbours' marks as they were
 * when it was read. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, MARK_LINES);
	__uint(map_flags, BPF_F_MMAPABLE);
	__type(key, __u32); /* tgid / MARKS_PER_LINE */
	__type(value, struct marks);
} marked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, __u32); /* enrolment */
} enrol_uid SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 32768);
	__type(key, __u64);
	__type(value, __u32); /* enrolment */
} enrol_cgroup SEC(".maps");

/* Rules for cgroups that are not there yet. The first that fits counts. Two
 * halves: the settings say which is in force, and userspace writes the other. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2 * NAME_RULES);
	__type(key, __u32);
	__type(value, struct cgroup_name);
} cgroup_names SEC(".maps");

/* What cgroup_filter of the settings is for, of cgroups that were added to
 * enrol_cgroup here: bytes for its bits, as in marked and for the same reason.
 * Userspace empties it before it makes the other anew. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct marks);
} named_filter SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct exe_key);
	__type(value, __u32); /* enrolment */
} enrol_exe SEC(".maps");

/* Room for two generations. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct dest4_key);
	__type(value, struct dest_value);
} dest4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 32768);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct dest6_key);
	__type(value, struct dest_value);
} dest6 SEC(".maps");

/* Names of unix sockets: whole paths first, then the file's name alone. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct unix_path_key);
	__type(value, struct name_value);
} unix_paths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 4096);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct unix_file_key);
	__type(value, struct name_value);
} unix_files SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64); /* netns cookie */
	__type(value, struct listener);
} listeners SEC(".maps");

/* Sockets that the daemon bound: a redirect leads to one of these or nowhere. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} daemon_socket SEC(".maps");

/* Two storage maps and not one: getpeername hooks also run when the proxy
 * accepts, and must not tell it the origin. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct origin);
} client_origin SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow);
	__type(value, struct origin);
} inflight SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct origin);
} server_origin SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct owned);
} owned_socket SEC(".maps");

/* Who sends datagrams to the resolver. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow);
	__type(value, struct origin);
} datagrams SEC(".maps");

/* How much of inflight and datagrams trees have: share.h. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << SHARE_BITS);
	__type(key, __u32);
	__type(value, struct share);
} shares SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 * 1024 * 1024);
} events SEC(".maps");

/* Apart from events: who provokes refusals must not hide forks and execs. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1024 * 1024);
} refusals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, enum counter);
	__type(value, __u64);
} counters SEC(".maps");

/* Of what never reaches the proxy, by the rule's number. Entries stay for good:
 * they are totals. Userspace makes the one for OTHER_RULES. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, DIRECT_RULES + 1);
	__type(key, __u64);
	__type(value, struct direct_total);
} direct_totals SEC(".maps");

/* An event with an image is larger than the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct event);
} scratch SEC(".maps");

static __always_inline void count(enum counter which)
{
	__u64 *n = bpf_map_lookup_elem(&counters, &which);

	if (n)
		(*n)++;
}

#endif
