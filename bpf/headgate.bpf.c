//go:build ignore

/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * headgate's kernel side, one object so that all programs share their maps:
 * who belongs to an enrolled tree (process.h, cgroup.h), which sockets it may have
 * (socket.h, unix.h), where its connections go (redirect.h, handover.h), what
 * those carry that go as asked (direct.h), its datagrams (datagram.h), whose the proxy's port is (guard.h), and what else is kept from it
 * where LSM programs load (harden.h). It needs
 * Linux 5.15 with BTF.
 */
#include "cgroup.h"
#include "datagram.h"
#include "direct.h"
#include "guard.h"
#include "handover.h"
#include "harden.h"
#include "process.h"
#include "redirect.h"
#include "socket.h"
#include "unix.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";
