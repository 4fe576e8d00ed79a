/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Unix sockets by name: who connects to another daemon may have it connect
 * elsewhere. Loads from Linux 6.7 on.
 *
 * The name is what the application passed. A symbolic link of another name is
 * not seen through here: harden.h compares inodes, where LSM programs load.
 */
#ifndef HEADGATE_UNIX_H
#define HEADGATE_UNIX_H

#include "redirect.h"

extern void *bpf_cast_to_kern_ctx(void *obj) __ksym;

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct bpf_sock_addr_kern {
	void *uaddr;
	__u32 uaddrlen;
};

#pragma clang attribute pop

/* Whole names are allowed one by one, never by their beginning: "..", or a link,
 * could lead anywhere from there. */

/* Offset of sun_path in struct sockaddr_un. */
#define SUN_PATH 2

static __always_inline struct name_value named(const struct name_value *v)
{
	struct name_value nothing = {};

	return v ? *v : nothing;
}

static __always_inline struct name_value path_verdict(const struct unix_path_key *key)
{
	return named(bpf_map_lookup_elem(&unix_paths, key));
}

/* A name, with room behind it so that the file's name can be read as a whole
 * wherever it begins. */
struct unix_name {
	struct unix_path_key path;
	__u8 room[UNIX_FILE];
};

/* file_of returns where the last component of a name begins. It does without
 * branches: the verifier would follow each of them for each byte. */
static __always_inline __u32 file_of(const struct unix_path_key *path)
{
	__u32 start = 0;

	for (__u32 i = 0; i < UNIX_PATH; i++) {
		/* All ones where the byte is a slash. */
		__u32 mask = (__u32)(((__s32)(path->name[i] ^ '/') - 1) >> 31);

		asm volatile("" : "+r"(mask));
		start = (start & ~mask) | ((i + 1) & mask);
	}
	return start;
}

/* file_verdict is for names that do not begin at the root, or lead there some
 * other way: what the file is called decides. */
static __always_inline struct name_value file_verdict(const struct unix_name *name)
{
	struct unix_file_key key = {.prefixlen = UNIX_FILE * 8};
	struct name_value unreadable = {.verdict = VERDICT_DENY};
	__u32 start = file_of(&name->path);

	if (start >= UNIX_PATH)
		return named(NULL);
	if (bpf_probe_read_kernel(key.name, UNIX_FILE, name->path.name + start))
		return unreadable;
	return named(bpf_map_lookup_elem(&unix_files, &key));
}

/* name_verdict asks for the whole path, and for the file's name where that says
 * nothing that is certain: only the beginning of a path is observed, and it may
 * lead to what a rule denies. */
static __always_inline struct name_value name_verdict(const struct unix_name *name, int abstract)
{
	struct name_value path = path_verdict(&name->path), file;

	if (abstract || path.whole || path.verdict == VERDICT_DENY)
		return path;
	file = file_verdict(name);
	if (path.verdict == VERDICT_NONE || file.verdict == VERDICT_DENY)
		return file;
	return path;
}

static __always_inline int judge_unix(struct bpf_sock_addr *ctx)
{
	struct call call = {.settings = load_settings(), .caller = current_caller()};
	struct bpf_sock_addr_kern *kern = bpf_cast_to_kern_ctx(ctx);
	struct unix_name name = {.path = {.prefixlen = UNIX_PATH * 8}};
	enum membership member;
	struct name_value found = {};
	struct refusal *r;
	int abstract, observed;
	__u32 len;
	long n;

	if (!call.settings)
		return 0;
	if (is_daemon(call.settings, &call.caller))
		return 1;
	member = member_of(call.settings, &call.caller, &call.proc);
	if (member == OUTSIDER)
		return 1;
	len = kern->uaddrlen;
	if (len <= SUN_PATH)
		return 1; /* no name: the kernel refuses it, or binds */
	len -= SUN_PATH;
	if (len > UNIX_PATH)
		len = UNIX_PATH;
	/* What follows the NUL of a path is no part of it. One more for the NUL that
	 * a path of the full length lacks: there is room behind. */
	n = bpf_probe_read_kernel_str(&name.path.name, len + 1, kern->uaddr + SUN_PATH);
	if (n <= 0)
		return 0;
	abstract = n == 1;
	if (abstract) {
		if (bpf_probe_read_kernel(name.path.name, len, kern->uaddr + SUN_PATH))
			return 0;
		name.path.name[0] = '@';
	}
	found = name_verdict(&name, abstract);
	observed = found.verdict == VERDICT_OBSERVED;
	if (member != MEMBER)
		observed = 0;
	else if (!observed && found.verdict != VERDICT_DENY) {
		count(COUNT_UNIX);
		return 1;
	}
	count(observed ? COUNT_OBSERVED : COUNT_DENIED_UNIX);
	r = begin_refusal(COUNT_DENIED_UNIX, &call.caller, member == MEMBER ? call.proc : NULL);
	if (!r)
		return observed;
	r->observed = observed;
	r->rule = found.rule;
	r->uid = (__u32)bpf_get_current_uid_gid();
	r->cgroup = bpf_get_current_cgroup_id();
	r->netns = bpf_get_netns_cookie(ctx);
	r->family = AF_UNIX;
	r->type = ctx->type;
	r->path_len = len;
	__builtin_memcpy(r->path, name.path.name, UNIX_PATH);
	bpf_ringbuf_submit(r, 0);
	return observed;
}

SEC("cgroup/connect_unix")
int headgate_connect_unix(struct bpf_sock_addr *ctx)
{
	return judge_unix(ctx);
}

SEC("cgroup/sendmsg_unix")
int headgate_sendmsg_unix(struct bpf_sock_addr *ctx)
{
	return judge_unix(ctx);
}

#endif
