package e2e

import "slices"

// escapeRows is the table.
func escapeRows() []way {
	return slices.Concat(connectRows(), programRows(), namespaceRows(), enrolmentRows(), descriptorRows(), datagramRows(), nameRows(), familyRows(), confinedRows(), unixRows(), ownRows(), hostRows())
}

func in(group string, rows []way) []way {
	for i := range rows {
		rows[i].group = group
	}
	return rows
}

const (
	loopbackReason = "passes unless a resource names it, so that databases of a test on the same host work"
	loopbackRemedy = "name it as a resource"
	momentReason   = "moments after the enrolment, which the daemon hears of; until then it works"
)

func connectRows() []way {
	return in("connecting over TCP", []way{
		{name: "IPv4", argv: "tcp {v4}", want: mediated},
		{name: "IPv6", argv: "tcp {v6}", want: mediated, target: "{v6}"},
		{name: "v4-mapped address", argv: "tcp {mapped}", want: mediated},
		{name: "non-blocking connect and poll", argv: "tcp-nonblock {v4}", want: mediated},
		{name: "connect while signals arrive, then poll", argv: "tcp-signals {v4}", want: mediated},
		{name: "AF_UNSPEC and connect again", argv: "tcp-reconnect {v4}", want: mediated},
		{name: "0.0.0.0", argv: "tcp 0.0.0.0:7007", want: mediated, target: "127.0.0.1:7007"},
		{name: "0.0.0.0 of a socket bound to another address", argv: "tcp-bind " + serverV4 + ":0 0.0.0.0:7007", want: mediated, target: "127.0.0.1:7007"},
		{name: "::", argv: "tcp [::]:7007", want: mediated, target: "[::1]:7007"},
		{name: "socket bound to a source address", argv: "tcp-bind " + serverV4 + ":0 {v4}", want: mediated},
		{name: "socket bound to a source address, IPv6", argv: "tcp-bind [" + serverV6 + "]:0 {v6}", want: mediated, target: "{v6}"},
		{name: "SO_BINDTODEVICE lo", argv: "tcp-device lo {v4}", root: true, want: mediated},
		{name: "IP_FREEBIND and a foreign source address", argv: "tcp-freebind 203.0.113.7:0 {v4}", want: refused, errno: "ENETUNREACH", seen: byNothing},
		{name: "IP_TRANSPARENT and a foreign source address", argv: "tcp-transparent 203.0.113.7:0 {v4}", root: true, want: refused, errno: "ETIMEDOUT", seen: byNothing},
		{name: "MPTCP", argv: "tcp-mptcp {v4}", want: mediated},
		{name: "MPTCP, v4-mapped", argv: "tcp-mptcp {mapped}", want: mediated},
		{name: "data in the SYN (MSG_FASTOPEN), with and without cookie", argv: "tcp-fastopen {v4}", want: mediated},
		{name: "TCP_FASTOPEN_CONNECT", argv: "tcp-fastopen-connect {v4}", want: mediated},
		{name: "io_uring", argv: "tcp-uring {v4}", want: mediated},
		{name: "io_uring, IOSQE_ASYNC", argv: "tcp-uring-async {v4}", want: mediated},
		{name: "io_uring, SQPOLL", argv: "tcp-uring-sqpoll {v4}", want: mediated},
		{name: "SO_MARK", argv: "tcp-mark {v4}", root: true, want: mediated},
		{name: "SO_BINDTODEVICE of another device", argv: "tcp-device way0 {v4}", root: true, want: refused, errno: "ETIMEDOUT|ENETUNREACH|EAGAIN", seen: "egress"},
		{name: "IPv4 source route", argv: "tcp-source-route 198.51.100.2 {v4}", root: true, want: refused, errno: "ETIMEDOUT", seen: "egress"},
		{name: "IPv6 routing header", argv: "tcp-source-route " + serverV6 + " [::1]:7007", want: refused, errno: "ETIMEDOUT", seen: "egress"},
		{name: "half-closed connection", argv: "tcp-halfclose {v4}", want: mediated, reply: "witness tcp end"},
		{name: "address that no resource names", argv: "tcp {unnamed}", want: refused, errno: "ENODATA", seen: bySession},
		{name: "loopback address that no resource names", argv: "tcp 127.0.0.1:7008", want: notCovered, reason: loopbackReason, remedy: loopbackRemedy},
		{name: "somebody outside connects to a listening agent", run: inbound, want: notCovered, reply: "from outside",
			reason: "only what an agent connects is mediated", remedy: "firewall for what comes in"},
	})
}

// programRows are processes that came about in an odd manner; each connects
// over TCP then.
func programRows() []way {
	return in("the process that connects", []way{
		{name: "static Go binary", argv: "tcp {v4}", want: mediated},
		{name: "dynamic program that knows nothing (bash)", run: shell(bashClient), want: mediated},
		{name: "Python", run: shell(pythonClient), want: mediated},
		{name: "LD_PRELOAD with system calls of its own", run: preloaded("start"), want: mediated},
		{name: "connect at process exit, in a destructor", run: preloaded("end"), want: mediated},
		{name: "program started through ld.so", run: shell("exec $(ls /lib*/ld-linux-*.so.* | head -n 1) /bin/bash -c '" + bashClient + "'"), want: mediated},
		{name: "empty environment", argv: "bare tcp {v4}", want: mediated},
		{name: "double fork and setsid", argv: "double-fork tcp {v4}", want: mediated},
		{name: "vfork and exec", argv: "vfork tcp {v4}", want: mediated},
		{name: "200 generations", argv: "nest 200 tcp {v4}", want: mediated},
		{name: "100 execs in a row", argv: "storm 100 tcp {v4}", want: mediated},
		{name: "thread other than the leader", argv: "tcp-thread {v4}", want: mediated},
		{name: "thread whose leader has exited", argv: "tcp-leaderless {v4}", want: mediated},
		{name: "clone(CLONE_FILES) child, the parent of which has exited", argv: "files {v4}", want: mediated},
		{name: "program that deleted itself", argv: "deleted tcp {v4}", want: mediated},
		{name: "memfd_create and exec", argv: "memfd tcp {v4}", want: mediated},
		{name: "script with #!", argv: "script tcp {v4}", want: mediated},
		{name: "setuid program", argv: "setuid {dir}/escape-setuid tcp {v4}", want: mediated},
		{name: "recycled pid", argv: "recycled tcp {v4}", root: true, want: mediated},
		{name: "chroot", argv: "chroot {dir} tcp {v4}", want: mediated},
		{name: "moved to another cgroup", argv: "cgroup {cgroup}/elsewhere tcp {v4}", root: true, want: mediated},
		{name: "a cgroup of its own below", argv: "cgroup {cgroup}/agents/own tcp {v4}", root: true, want: mediated},
	})
}

// namespaceRows are about network namespaces that the daemon has to come to
// first.
func namespaceRows() []way {
	const down = "EPERM|ENETUNREACH"
	return in("network namespaces", []way{
		{name: "one of its own, in a user namespace, loopback down", argv: "userns-net tcp {v4}", want: refused, errno: down, seen: byNothing},
		{name: "one of its own, loopback down", argv: "netns tcp {v4}", root: true, want: refused, errno: down, seen: byNothing},
		{name: "one of its own, in a user namespace, loopback up", argv: "userns-net inside 127.0.0.1:7007", want: mediated, target: "127.0.0.1:7007", reply: "another"},
		{name: "one of its own, loopback up", argv: "netns inside 127.0.0.1:7007", root: true, want: mediated, target: "127.0.0.1:7007", reply: "another"},
		{name: "back into the host's", argv: "netns-back tcp {v4}", root: true, want: mediated},
		{name: "a thread alone in another one", argv: "join-netns {neighbour} tcp {v4}", root: true, want: refused, seen: "no_listener"},
		{name: "another one with a way out", argv: "exec-netns {neighbour} retry tcp {v4}", root: true, want: mediated},
		{name: "another one with a way out, datagrams", argv: "exec-netns {neighbour} udp-sendto {udp4}", root: true, want: refused, seen: "udp"},
		{name: "another one with a way out, names", argv: "exec-netns {neighbour} retry dns-sendto {dns} allowed.example", root: true, want: mediated, target: "{dns}", reply: "rcode 0 192.0.2.77"},
		{name: "socket of the host's, after leaving it", argv: "tcp-left-netns {v4}", root: true, want: mediated},
	})
}

func enrolmentRows() []way {
	const aborted = "ECONNABORTED"
	return in("becoming an agent", []way{
		{name: "program that a rule names", run: byRule("outside", nobody, "{sockets}/enrolled tcp {v4}"), want: mediated},
		{name: "user that a rule names", run: byRule("outside", 4242, "{escape} tcp {v4}"), want: mediated},
		{name: "cgroup that a rule names", run: byRule("by-rule", nobody, "{escape} tcp {v4}"), want: mediated},
		{name: "cgroup of a pattern, made after the daemon started", run: laterCgroup, want: mediated, reason: "from when the daemon has heard of it; older connections are destroyed then"},
		{name: "copy of a program that a rule names", run: byRule("outside", nobody, "{escape} tcp {v4}"), want: notCovered,
			reason: "a rule means the file, not what is in it", remedy: "a rule for the user or the cgroup, or `headgate run`"},
		{name: "running when the rule comes: TCP connection", run: olderWay("older-tcp"), want: refused, errno: aborted, seen: byNothing},
		{name: "running when the rule comes: connected UDP socket", run: olderWay("older-udp"), want: refused, errno: "EDESTADDRREQ|ECONNABORTED", seen: byNothing},
		{name: "running when the rule comes: UDP socket", run: olderWay("older-unbound"), want: refused, seen: "udp"},
		{name: "running when the rule comes: TCP socket, connected after", run: olderWay("older-made-tcp"), want: mediated},
		{name: "running when the rule comes: child that it starts after", run: olderWay("older-forked"), want: mediated},
		{name: "TCP connection that a program inherits which a rule names", run: becoming(nobody, "older-inherits", "{patient}", "{sockets}/enrolled"),
			want: refused, errno: aborted, seen: byNothing, reason: momentReason},
		{name: "TCP connection of a process that becomes a user whom a rule names", run: becoming(0, "older-setuid", "{patient}", "4242"),
			want: refused, errno: aborted, seen: byNothing, reason: momentReason},
	})
}

func descriptorRows() []way {
	return in("sockets that change hands", []way{
		{name: "socket made outside, connected inside", run: handedOut(""), want: mediated},
		{name: "connection made outside, used inside", run: handedOut("{v4}"), want: notCovered,
			reason: "whoever made it is no agent, and no hook sees that it is handed over", remedy: "keep agents from the sockets of programs that hand out connections"},
		{name: "socket made inside, connected outside", run: handedIn, want: harmless, reason: "whoever connects it is no agent, and could have made one"},
		{name: "connected before enrolment", run: enrolledWith("connected", "{v4}"), want: refused, errno: "ECONNABORTED", seen: byNothing},
		{name: "connected to loopback before enrolment", run: enrolledWith("connected", "127.0.0.1:7008"), want: notCovered, reply: "end",
			reason: "connections to loopback are destroyed only where a resource names it", remedy: "enrol early: `headgate run`"},
		{name: "connected to loopback that a resource names before enrolment", run: enrolledWith("connected", "127.0.0.1:7007"), want: refused, errno: "ECONNABORTED", seen: byNothing},
		{name: "made before enrolment, connected after", run: enrolledWith("made", "{v4}"), want: mediated},
		{name: "asking another process to connect", run: asked, want: notCovered,
			reason: "the lineage ends at whoever is asked: systemd, cron, docker, sshd of this host", remedy: "deny the socket by a rule, or enrol that user, unit or container too"},
	})
}

func datagramRows() []way {
	return in("datagrams", []way{
		{name: "connect and send", argv: "udp-connect {udp4}", want: refused, seen: "egress"},
		{name: "sendto", argv: "udp-sendto {udp4}", want: refused, seen: "udp"},
		{name: "sendmmsg", argv: "udp-sendmmsg {udp4}", want: refused, seen: "udp"},
		{name: "connect and send, IPv6", argv: "udp-connect {udp6}", want: refused, seen: "egress"},
		{name: "sendto, IPv6", argv: "udp-sendto {udp6}", want: refused, seen: "udp"},
		{name: "connect and send, v4-mapped", argv: "udp-connect {udpmapped}", want: refused, seen: "udp"},
		{name: "sendto, v4-mapped", argv: "udp-sendto {udpmapped}", want: refused, seen: "udp"},
		{name: "AF_INET address on an IPv6 socket", argv: "udp-4on6 {udp4}", want: refused, seen: "udp"},
		{name: "sendto on a socket that is connected to loopback", argv: "udp-reconnect 127.0.0.1:7009 {udp4}", want: refused, seen: "udp"},
		{name: "QUIC (udp/443)", argv: "udp-quic {quic}", want: refused, seen: "egress"},
		{name: "io_uring, IORING_OP_SEND with an address", argv: "udp-uring-send {udp4}", want: refused, seen: "udp"},
		{name: "io_uring, IORING_OP_SENDMSG", argv: "udp-uring-msg {udp4}", want: refused, seen: "udp"},
		{name: "MSG_MORE", argv: "udp-cork {udp4}", want: refused, seen: "egress"},
		{name: "one message cut into datagrams (UDP_SEGMENT)", argv: "udp-segment {udp4}", want: refused, seen: "udp"},
		{name: "multicast", argv: "udp-sendto 224.0.0.251:5353", want: refused, seen: "udp"},
		{name: "multicast, IPv6", argv: "udp-sendto [ff02::fb]:5353", want: refused, seen: "udp"},
		{name: "broadcast", argv: "udp-sendto 255.255.255.255:67", want: refused, seen: "udp"},
		{name: "to loopback, with an IPv4 source route", argv: "udp-source-route 198.51.100.2 127.0.0.1:7009", root: true, want: refused, reply: "sent", seen: "egress"},
		{name: "to loopback, with an IPv4 source route, unprivileged", argv: "udp-source-route 198.51.100.2 127.0.0.1:7009", want: refused, seen: byPermissions},
		{name: "to loopback, with an IPv6 routing header", argv: "udp-source-route " + serverV6 + " [::1]:7009", want: refused, reply: "sent", seen: "egress"},
		{name: "to loopback, by another device", argv: "udp-device way0 127.0.0.1:7009", want: refused, reply: "sent", seen: "egress"},
		{name: "loopback address that no resource names", argv: "udp-sendto 127.0.0.1:7009", want: notCovered, reason: loopbackReason, remedy: loopbackRemedy},
	})
}

func nameRows() []way {
	const answer, no = "rcode 0 192.0.2.77", "rcode 5"
	return in("names", []way{
		{name: "allowed name, connected socket", argv: "dns-connect {dns} allowed.example", want: mediated, target: "{dns}", reply: answer},
		{name: "allowed name, unconnected socket", argv: "dns-sendto {dns} allowed.example", want: mediated, target: "{dns}", reply: answer},
		{name: "allowed name, unconnected socket, IPv6", argv: "dns-sendto {dns6} allowed.example", want: mediated, target: "{dns6}", reply: answer},
		{name: "allowed name over TCP", argv: "dns-tcp {dns} allowed.example", want: mediated, target: "{dns}", reply: answer},
		{name: "allowed name, asked of 127.0.0.53", argv: "dns-sendto {stub} allowed.example", want: mediated, target: "{stub}", reply: answer},
		{name: "other name, connected socket", run: deniedName("dns-connect {dns}", no), want: refused, errno: no, seen: bySession},
		{name: "other name, unconnected socket", run: deniedName("dns-sendto {dns}", no), want: refused, errno: no, seen: bySession},
		{name: "other name over TCP", run: deniedName("dns-tcp {dns}", no), want: refused, errno: no, seen: bySession},
		{name: "other name, asked of 127.0.0.53", run: deniedName("dns-sendto {stub}", no), want: refused, errno: no, seen: bySession},
		{name: "allowed name in mixed case", argv: "dns-sendto {dns} aLLowed.Example", want: mediated, target: "{dns}", reply: answer},
		{name: "allowed name, v4-mapped server", argv: "dns-connect {dnsmapped} allowed.example", want: mediated, target: "{dns}", reply: answer},
		{name: "other name, v4-mapped server", run: deniedName("dns-connect {dnsmapped}", no), want: refused, errno: no, seen: bySession},
		{name: "other name, IPv6", run: deniedName("dns-sendto {dns6}", no), want: refused, errno: no, seen: bySession},
		{name: "name below an allowed one", run: deniedName("dns-sendto {dns} secret.allowed.example", no), want: refused, errno: no, seen: bySession},
		{name: "something else on udp/53", argv: "udp-sendto {dns}", want: refused, errno: "EAGAIN", seen: bySession},
	})
}
