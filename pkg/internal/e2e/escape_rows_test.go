package e2e

import "slices"

// escapeRows is the table.
func escapeRows() []way {
	return slices.Concat(connectRows(), programRows(), descriptorRows(), datagramRows(), nameRows(), familyRows(), unixRows(), ownRows(), hostRows())
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
		{name: "user and network namespace of its own", argv: "userns-net tcp {v4}", want: refused, seen: "no_listener"},
		{name: "network namespace of its own", argv: "netns tcp {v4}", root: true, want: refused, seen: "no_listener"},
		{name: "back into the host's network namespace", argv: "netns-back tcp {v4}", root: true, want: mediated},
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
			reason: "connections to loopback are not destroyed at enrolment", remedy: "enrol early: `headgate run`"},
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
		{name: "something else on udp/53", argv: "udp-sendto {dns}", want: refused, errno: "EAGAIN", seen: bySession},
	})
}
