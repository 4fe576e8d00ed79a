/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* socket(2): of the internet families, only what can be mediated later. Other
 * families have no hook in cgroups; see harden.h and pkg/confine. */
#ifndef HEADGATE_SOCKET_H
#define HEADGATE_SOCKET_H

#include "redirect.h"

SEC("cgroup/sock_create")
int headgate_sock_create(struct bpf_sock *ctx)
{
	struct call call = {.settings = load_settings(), .caller = current_caller()};
	enum membership member;
	enum counter why;

	if (!call.settings)
		return 0;
	if (is_daemon(call.settings, &call.caller))
		return 1;
	member = member_of(call.settings, &call.caller, &call.proc);
	if (member == OUTSIDER)
		return 1;
	why = COUNT_DENIED_UNMARKED;
	if (member == MEMBER) {
		why = COUNT_DENIED_SOCKET_TYPE;
		if (transport_of(ctx->type, ctx->protocol)) {
			call.attempt.netns = bpf_get_netns_cookie(ctx);
			if (settle(ctx, &call, SETTLED_NOTHING))
				return 1;
			why = COUNT_STORAGE_FAILED;
		}
	} else {
		call.proc = NULL;
	}
	call.attempt.netns = bpf_get_netns_cookie(ctx);
	call.attempt.family = ctx->family;
	call.attempt.type = ctx->type;
	call.attempt.protocol = ctx->protocol;
	call.attempt.observed = only_observed(call.settings, why);
	/* Egress ends what it sends when observing ends. */
	if (call.attempt.observed && !settle(ctx, &call, SETTLED_NOTHING)) {
		call.attempt.observed = 0;
		why = COUNT_STORAGE_FAILED;
	}
	refuse(why, &call.caller, call.proc, &call.attempt, NULL);
	return call.attempt.observed;
}

#endif
