//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * headgate's kernel side, one object so that all programs share their maps:
 * who belongs to an enrolled tree (process.h), where its connections go
 * (redirect.h), and whose the proxy's port is (guard.h). It needs Linux 5.15 with BTF.
 */
#include "guard.h"
#include "process.h"
#include "redirect.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
