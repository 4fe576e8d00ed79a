package e2e

// noHook is why a family of sockets is open where nothing else closes it.
const noHook = "no hook of a cgroup sees sockets of this family"

const (
	familyRemedy = "a kernel with BPF LSM; else `headgate run --confine=strict`, or RestrictAddressFamilies= in the unit of the job"
	linkRemedy   = "a kernel with BPF LSM, which compares the socket's inode; else the permissions of the socket"
)

func familyRows() []way {
	return in("other protocols and families", []way{
		{name: "UDP-Lite", argv: "udplite {udp4}", want: refused, seen: "socket_type"},
		{name: "UDP-Lite, connected", argv: "udplite-connect {udp4}", want: refused, seen: "socket_type"},
		{name: "UDP-Lite, IPv6", argv: "udplite {udp6}", want: refused, seen: "socket_type"},
		{name: "raw IP with a packet made by hand", argv: "raw-udp " + serverV4 + " {udp4}", root: true, want: refused, seen: "socket_type"},
		{name: "raw TCP", argv: "raw-tcp {v4}", root: true, want: refused, seen: "socket_type"},
		{name: "raw ICMP", argv: "raw-icmp {v4}", root: true, want: refused, seen: "socket_type"},
		{name: "raw IP, unprivileged", argv: "raw-udp " + serverV4 + " {udp4}", want: refused, seen: byPermissions},
		{name: "ping socket", argv: "ping {v4}", want: refused, seen: "socket_type"},
		{name: "ping socket, IPv6", argv: "ping {v6}", want: refused, seen: "socket_type"},
		{name: "SCTP", argv: "sctp {v4}", want: refused, seen: "socket_type"},
		{name: "SCTP, one to many", argv: "sctp-many {v4}", want: refused, seen: "socket_type"},
		{name: "DCCP", argv: "dccp {v4}", want: refused, seen: "socket_type"},
		{name: "SMC, which falls back to TCP", argv: "smc {v4}", want: mediated},
		{name: "AF_PACKET, unprivileged", argv: "packet 203.0.113.1 {udp4}", want: refused, seen: byPermissions},
		{name: "AF_PACKET", argv: "packet 203.0.113.1 {udp4}", root: true, want: notCovered, reply: "sent", reason: noHook, remedy: familyRemedy},
		{name: "AF_XDP, unprivileged", argv: "xdp", want: refused, seen: byPermissions},
		{name: "AF_XDP", argv: "xdp", root: true, want: notCovered, reply: "socket", reason: noHook, remedy: familyRemedy},
		{name: "AF_VSOCK", argv: "vsock", want: notCovered, reply: "socket", reason: noHook + "; on a virtual machine it leads to the host", remedy: familyRemedy},
		{name: "AF_TIPC", argv: "tipc", want: notCovered, reply: "socket", reason: noHook, remedy: familyRemedy},
		{name: "AF_ALG", argv: "alg", want: harmless, reply: "hash", reason: "computes in the kernel and leads nowhere"},
		{name: "SOCK_PACKET", argv: "sock-packet", root: true, want: notCovered, reply: "socket", reason: noHook, remedy: familyRemedy},
		{name: "each other family there is", argv: "families", want: notCovered, reply: "opened", reason: noHook + "; which there are depends on the kernel", remedy: familyRemedy},
		{name: "new route, unprivileged", argv: "route 203.0.113.9", want: refused, seen: byPermissions},
		{name: "new route", argv: "route 203.0.113.9", root: true, want: harmless, reply: "route added",
			reason: "a verdict is about the address that was asked for, whatever way leads there"},
	})
}

// confinedRows are those that a filter of `headgate run` changes. What it takes
// away works without it: see attempt.
func confinedRows() []way {
	const none, missing = "EAFNOSUPPORT", "ENOSYS"
	return in("confined by headgate run", []way{
		{name: "strict: AF_PACKET", argv: "packet 203.0.113.1 {udp4}", root: true, confine: "strict", want: refused, errno: none, seen: byFilter},
		{name: "strict: AF_XDP", argv: "xdp", root: true, confine: "strict", want: refused, errno: none, seen: byFilter},
		{name: "strict: SOCK_PACKET", argv: "sock-packet", root: true, confine: "strict", want: refused, errno: none, seen: byFilter},
		{name: "strict: AF_VSOCK", argv: "vsock", confine: "strict", want: refused, errno: none, seen: byFilter},
		{name: "strict: AF_ALG", argv: "alg", confine: "strict", want: refused, errno: none, seen: byFilter},
		{name: "strict: AF_TIPC", argv: "tipc", confine: "strict", want: refused, errno: none, seen: byFilter},
		{name: "strict: each other family", argv: "families", confine: "strict", want: refused, errno: none, seen: byFilter},
		{name: "strict: each other family, by a child", argv: "double-fork families", confine: "strict", want: refused, errno: none, seen: byFilter},
		{name: "strict: io_uring", argv: "tcp-uring {v4}", confine: "strict", want: refused, errno: missing, seen: byFilter},
		{name: "strict: bpf(2)", argv: "bpf-maps", root: true, confine: "strict", want: refused, seen: byFilter},
		{name: "strict: TCP goes on", argv: "tcp {v4}", confine: "strict", want: mediated},
		{name: "auto: AF_PACKET", argv: "packet 203.0.113.1 {udp4}", root: true, confine: "auto", want: refused, errno: none, seen: byFilter},
		{name: "auto: AF_VSOCK", argv: "vsock", root: true, confine: "auto", want: refused, errno: none, seen: byFilter},
		{name: "auto: AF_VSOCK, unprivileged", argv: "vsock", confine: "auto", want: notCovered, reply: "socket",
			reason: "auto leaves the trees of the unprivileged unfiltered, so that sudo works in them", remedy: "`headgate run --confine=strict`"},
		{name: "auto: io_uring", argv: "tcp-uring {v4}", root: true, confine: "auto", want: refused, errno: missing, seen: byFilter},
		{name: "auto: bpf(2)", argv: "bpf-maps", root: true, confine: "auto", want: refused, seen: byFilter},
	})
}

func unixRows() []way {
	return in("unix sockets", []way{
		{name: "path that a rule denies", argv: "unix {sockets}/denied", want: refused, seen: "unix"},
		{name: "path that a rule denies, written relative", argv: "unix-relative {sockets}/denied", want: refused, seen: "unix"},
		{name: "symbolic link of another name to a path that a rule denies", argv: "unix-symlink {sockets}/denied", want: notCovered,
			reason: "the hook is told the name, not the socket", remedy: linkRemedy},
		{name: "hard link of another name to a path that a rule denies", argv: "unix-hardlink {sockets}/denied", root: true, want: notCovered,
			reason: "the hook is told the name, not the socket", remedy: linkRemedy},
		{name: "/proc/self/fd of a path that a rule denies", argv: "unix-procfd {sockets}/denied", want: notCovered,
			reason: "the hook is told the name, not the socket", remedy: linkRemedy},
		{name: "symbolic link to the directory of a path that a rule denies", argv: "unix-linkdir {sockets}/denied", want: refused, seen: "unix"},
		{name: "path that a rule denies, with // and .", argv: "unix {sockets}//./denied", want: refused, seen: "unix"},
		{name: "path that a rule denies, by way of /proc/self/root", argv: "unix /proc/self/root{sockets}/denied", want: refused, seen: "unix"},
		{name: "path that a rule denies, in a chroot", argv: "chroot {sockets} unix /denied", want: refused, seen: "unix"},
		{name: "path that a rule denies, by io_uring", argv: "unix-uring {sockets}/denied", want: refused, seen: "unix"},
		{name: "path that a rule denies, SOCK_SEQPACKET", argv: "unix-seqpacket {sockets}/denied", want: refused, seen: "unix"},
		{name: "datagram to a path that a rule denies", argv: "unix-dgram {sockets}/denied-dgram", want: refused, seen: "unix"},
		{name: "docker.sock, where there is none", argv: "unix /run/docker.sock", want: refused, seen: "unix"},
		{name: "/var/run/docker.sock, where there is none", argv: "unix /var/run/docker.sock", want: refused, seen: "unix"},
		{name: "containerd.sock, where there is none", argv: "unix /run/containerd/containerd.sock", want: refused, seen: "unix"},
		{name: "systemd's private socket, where there is none", argv: "unix /run/systemd/private", want: refused, seen: "unix"},
		{name: "D-Bus of the system, where there is none", argv: "unix /run/dbus/system_bus_socket", want: refused, seen: "unix"},
		{name: "a database's own socket (.s.PGSQL.*) that a rule denies", argv: "unix {sockets}/.s.PGSQL.5432", want: refused, seen: "unix"},
		{name: "path that no rule names", argv: "unix {sockets}/open", want: notCovered,
			reason: "local services are not known by their paths", remedy: "a resource with protocol: unix, and a rule that denies it"},
		{name: "abstract name that no rule names", argv: "unix @headgate-escape", want: notCovered,
			reason: "a path in a policy is no abstract name", remedy: "a network namespace of the job's own has no abstract names of the host's"},
	})
}

func ownRows() []way {
	return in("headgate itself", []way{
		{name: "the proxy's port", argv: "tcp 127.0.0.1:{proxy}", want: refused, seen: "own_port"},
		{name: "the proxy's port, IPv6", argv: "tcp [::1]:{proxy}", want: refused, seen: "own_port"},
		{name: "the proxy's port over UDP", argv: "udp-sendto 127.0.0.1:{proxy}", want: refused, seen: "own_port"},
		{name: "the port of the metrics", argv: "tcp 127.0.0.1:{metrics}", want: refused, seen: "own_port"},
		{name: "binding the proxy's port", argv: "bind tcp 0.0.0.0:{proxy}", want: refused, seen: "bind"},
		{name: "binding the proxy's port, IPv6", argv: "bind tcp [::1]:{proxy}", want: refused, seen: "bind"},
		{name: "binding the proxy's port over UDP", argv: "bind udp 0.0.0.0:{proxy}", want: refused, seen: "bind"},
		{name: "listening on the proxy's port without binding it", argv: "listen-unbound {proxy}", want: refused, errno: "EADDRINUSE", seen: byNothing},
		{name: "asking to be enrolled as another agent", run: answered("enrolled already", "run", "--socket", "{socket}", "--agent", "default", "--", "true"),
			want: refused, errno: "answer", seen: byAnswer},
		{name: "asking for another policy", run: answered("", "reload", "--socket", "{socket}"), want: refused, errno: "answer", seen: byAnswer},
		{name: "kill the daemon", argv: "kill {daemon}", want: refused, seen: byPermissions},
		{name: "ptrace the daemon", argv: "ptrace {daemon}", want: refused, seen: byPermissions},
		{name: "bpf(2): list the maps", argv: "bpf-maps", want: refused, seen: byPermissions},
		{name: "bpf(2): open a pin", argv: "bpf-pin {pins}", want: refused, errno: "EACCES", seen: byPermissions},
		{name: "remove the pins", argv: "unlink {pins}", want: refused, errno: "EACCES", seen: byPermissions},
	})
}

func hostRows() []way {
	return in("instance metadata", []way{
		{name: "169.254.169.254", argv: "tcp 169.254.169.254:80", want: refused, seen: "metadata"},
		{name: "169.254.169.254, v4-mapped", argv: "tcp [::ffff:169.254.169.254]:80", want: refused, seen: "metadata"},
		{name: "169.254.169.254 over UDP", argv: "udp-sendto 169.254.169.254:80", want: refused, seen: "metadata"},
		{name: "169.254.170.2", argv: "tcp 169.254.170.2:80", want: refused, seen: "metadata"},
		{name: "169.254.169.254, non-blocking", argv: "tcp-nonblock 169.254.169.254:80", want: refused, seen: "metadata"},
		{name: "169.254.169.254, io_uring", argv: "tcp-uring 169.254.169.254:80", want: refused, seen: "metadata"},
		{name: "169.254.169.254, another port", argv: "tcp 169.254.169.254:53", want: refused, seen: "metadata"},
		{name: "169.254.170.23", argv: "tcp 169.254.170.23:80", want: refused, seen: "metadata"},
		{name: "fd00:ec2::254", argv: "tcp [fd00:ec2::254]:80", want: refused, seen: "metadata"},
	})
}
