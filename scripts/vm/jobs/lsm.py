#!/usr/bin/env python3
"""The hardening tier: what root in an enrolled tree may not do, tried in the tree and outside of it.

Outside everything has to work, or a refusal inside means nothing. What turns the gate off is tried outside last or not at all.
"""
import json, os, time
from lib import *

# Prints for each deed how it went: an errno's name, or ok.
PROBE = r"""
import ctypes, errno, json, os, signal, socket, subprocess, sys
daemon, outsider, part = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
libc = ctypes.CDLL(None, use_errno=True)
found = {}

def deed(name, do):
    try:
        do()
        found[name] = "ok"
    except OSError as e:
        found[name] = errno.errorcode.get(e.errno, str(e.errno))

def asked(do):
    # Permission is asked for before the address is looked at: EFAULT is yes.
    def ask():
        try:
            do()
        except OSError as e:
            if e.errno != errno.EFAULT:
                raise
    return ask

def call(n):
    if n < 0:
        raise OSError(ctypes.get_errno(), "")
    return n

def made(family, kind, protocol=0):
    return lambda: socket.socket(family, kind, protocol).close()

def connected(path, kind=socket.SOCK_STREAM):
    def do():
        with socket.socket(socket.AF_UNIX, kind) as s:
            s.settimeout(5)
            s.connect(path)
    return do

def sent(path):
    def do():
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(b"x", path)
    return do

def attach(pid):
    def do():
        call(libc.ptrace(16, pid, None, None))
        os.waitpid(pid, 0x40000000)  # __WALL
        call(libc.ptrace(17, pid, None, None))
    return do

def seize(pid):
    def do():
        call(libc.ptrace(0x4206, pid, None, None))
        call(libc.ptrace(0x4207, pid, None, None))
        os.waitpid(pid, 0x40000000)
        call(libc.ptrace(17, pid, None, None))
    return do

def vm(number, pid):
    byte = ctypes.create_string_buffer(1)
    mine = (ctypes.c_uint64 * 2)(ctypes.addressof(byte), 1)
    theirs = (ctypes.c_uint64 * 2)(8, 1)
    return asked(lambda: call(libc.syscall(number, pid, mine, 1, theirs, 1, 0)))

def descriptor(pid):
    def do():
        fd = os.pidfd_open(pid)
        try:
            os.close(call(libc.syscall(438, fd, 1, 0)))
        finally:
            os.close(fd)
    return do

def pidfd_signal(pid, number):
    def do():
        fd = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(fd, number)
        finally:
            os.close(fd)
    return do

def by_descriptor(path):
    def do():
        fd = os.open(path, os.O_PATH)
        try:
            connected("/proc/self/fd/%d" % fd)()
        finally:
            os.close(fd)
    return do

def child():
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        attach(pid)()
    finally:
        os.kill(pid, 9)

def bpf():
    attr = (ctypes.c_uint32 * 32)(2, 4, 4, 1)   # an array of one
    os.close(call(libc.syscall(321, 0, attr, 128)))

def look():
    d = "/run/vm-lsm/"
    deed("AF_PACKET", made(17, socket.SOCK_RAW, 0x0300))
    deed("AF_VSOCK", made(40, socket.SOCK_STREAM))
    deed("AF_XDP", made(44, socket.SOCK_RAW))
    deed("AF_ALG", made(38, socket.SOCK_SEQPACKET))
    deed("raw IP", made(2, socket.SOCK_RAW, 255))
    deed("UDP-Lite", made(2, socket.SOCK_DGRAM, 136))
    deed("AF_NETLINK", made(16, socket.SOCK_RAW))
    deed("denied socket by its name", connected(d + "denied"))
    deed("denied socket by a symbolic link", connected("/tmp/vm-link"))
    deed("denied socket by a hard link", connected(d + "hard"))
    deed("denied socket by /proc/self/fd", by_descriptor(d + "denied"))
    deed("denied datagram socket by a symbolic link", sent("/tmp/vm-link-dgram"))
    deed("other socket", connected(d + "open"))
    deed("system bus by a symbolic link", connected("/tmp/vm-bus"))
    deed("system bus by its name", connected("/run/dbus/system_bus_socket"))
    deed("bus of a user by its name", connected("/run/user/1500/bus"))
    deed("user's systemd by its name", connected("/run/user/1500/systemd/private"))
    deed("systemd's private socket by a symbolic link", connected("/tmp/vm-private"))
    deed("bus of a user by a symbolic link", connected("/tmp/vm-userbus"))
    deed("user's systemd by a symbolic link", connected("/tmp/vm-userprivate"))
    deed("ptrace of its own child", child)
    deed("ptrace of an outsider", attach(outsider))
    deed("ptrace of the daemon", attach(daemon))
    deed("ptrace of the daemon, seizing", seize(daemon))
    deed("/proc/PID/mem of the daemon, to read", lambda: open("/proc/%d/mem" % daemon, "rb").close())
    deed("/proc/PID/mem of the daemon, to write", lambda: os.close(os.open("/proc/%d/mem" % daemon, os.O_RDWR)))
    deed("process_vm_readv of the daemon", vm(310, daemon))
    deed("process_vm_writev of the daemon", vm(311, daemon))
    deed("pidfd_getfd of the daemon", descriptor(daemon))
    deed("bpf()", bpf)
pins = "/sys/fs/bpf/headgate"
def a_pin():
    for where, _, files in os.walk(pins):
        for f in sorted(files):
            if f.startswith("link_"):
                return os.path.join(where, f)
    raise OSError(errno.ENOENT, "")
def renamed():
    at = a_pin()
    os.rename(at, at + "_x")
    os.rename(at + "_x", at)
def paused():
    os.kill(daemon, 19)
    os.kill(daemon, 18)
def turn_off():
    deed("signal 0 to the daemon", lambda: os.kill(daemon, 0))
    deed("SIGHUP to the daemon", lambda: os.kill(daemon, 1))
    deed("SIGSTOP to the daemon", paused)
    deed("signal by pidfd to the daemon", pidfd_signal(daemon, 0))
    deed("mv of a pin", renamed)
    deed("rm of a pin", lambda: os.unlink(a_pin()))
    deed("kill -9 of the daemon", lambda: os.kill(daemon, 9))
    deed("umount -l /sys/fs/bpf", lambda: call(libc.umount2(b"/sys/fs/bpf", 2)))
    deed("umount -l /sys", lambda: call(libc.umount2(b"/sys", 2)))
if part != "off":
    look()
if part != "outside":
    turn_off()
print(json.dumps(found))
"""
SERVER = """
import os, selectors, socket
os.makedirs("/run/vm-lsm", exist_ok=True)
poll = selectors.DefaultSelector()
for name, kind in (("denied", 1), ("open", 1), ("denied-dgram", 2)):
    s = socket.socket(socket.AF_UNIX, kind)
    s.bind("/run/vm-lsm/" + name)
    os.chmod("/run/vm-lsm/" + name, 0o777)
    if kind == 1:
        s.listen(64)
    poll.register(s, 1, kind)
os.link("/run/vm-lsm/denied", "/run/vm-lsm/hard")
while True:
    for key, _ in poll.select():
        key.fileobj.accept()[0].close() if key.data == 1 else key.fileobj.recv(99)
"""
FREE = ("AF_NETLINK", "other socket", "ptrace of its own child")
POLICY = dict(rules='    units: ["actions.runner.*.service"]',
              resources='  - {name: private, protocol: unix, paths: [/run/vm-lsm/denied, /run/vm-lsm/denied-dgram]}',
              more="  - {name: no-private, effect: deny, resources: [private]}")


def counted(prefix):
    return {k: v for k, v in status()["counters"].items() if k.startswith(prefix)}


def probe(pid, outsider, part):
    """What somebody outside of every tree finds."""
    text = run(f"python3 /usr/local/bin/vm-lsm.py {pid} {outsider} {part}", timeout=90, check=False).stdout
    return found_in(text)


def found_in(text):
    for line in text.splitlines():
        if line.startswith("{"):
            return json.loads(line)
    say("the probe said: " + text[-1500:])
    return {}


def compare(inside, outside):
    for deed, free in outside.items():
        there = inside.get(deed, "not tried")
        lacks = free in ("EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT")
        want = ["ok"] if deed in FREE else ["EPERM", "EACCES"]
        result("lsm", deed, "root in the tree", want, there, "this kernel has none; the refusal comes first" if lacks else "")
        result("lsm", deed, "root outside", [free] if lacks else ["ok"], free)


def prepare_sockets():
    write("/run/vm-server.py", SERVER)
    run("rm -rf /run/vm-lsm; systemctl stop vm-server; systemd-run -q --unit=vm-server python3 /run/vm-server.py", check=False)
    until(lambda: os.path.exists("/run/vm-lsm/hard"), 20)
    until(lambda: os.path.exists("/run/user/1500/bus"), 20)
    for link, to in (("link", "/run/vm-lsm/denied"), ("link-dgram", "/run/vm-lsm/denied-dgram"), ("bus", "/run/dbus/system_bus_socket"),
                     ("private", "/run/systemd/private"), ("userbus", "/run/user/1500/bus"), ("userprivate", "/run/user/1500/systemd/private")):
        run(["ln", "-sfn", to, "/tmp/vm-" + link])


def main():
    prepare()
    start_witness()
    install()
    prepare_sockets()
    write("/usr/local/bin/vm-lsm.py", PROBE)
    policy(**POLICY)
    start_daemon()
    tier = sorted(p["name"] for p in status()["programs"] if "_lsm_" in p["name"])
    result("lsm", "programs attached", "", "9", str(len(tier)), "lsm=" + read("/sys/kernel/security/lsm").strip())
    run("systemctl stop vm-outsider; systemd-run -q --unit=vm-outsider sleep 3600", check=False)
    outsider = int(run("systemctl show -p MainPID --value vm-outsider").stdout)
    pid = daemon_pid()
    outside = probe(pid, outsider, "outside")
    result("lsm", "nothing is counted for who is outside", "", "0", str(sum(counted("hardened_").values())))
    start_runner()
    before = counted("hardened_")
    inside = found_in(as_agent("lsm", f"sudo -n python3 /usr/local/bin/vm-lsm.py {pid} {outsider} inside\n", 90))
    after = counted("hardened_")
    for name in sorted(after):
        result("lsm", name, "counted", "yes", "yes" if after[name] > before.get(name, 0) else "no", f"{before.get(name, 0)} -> {after[name]}")
    recorded = {json.loads(line).get("what") for line in run("headgate flows list --kind escape -o json").stdout.splitlines() if line.startswith("{")}
    for name in sorted(after):
        result("lsm", name, "in the record", "yes", "yes" if name in recorded else "no", " ".join(sorted(recorded)))
    result("lsm", "the daemon is the same", "", "yes", "yes" if daemon_pid() == pid else "no")
    for number, (name, way) in enumerate(CGROUPS):
        move(LAST - number, name, way)
    files()
    starve()
    stop_runner()
    # What turns the gate off comes last, and what nobody recovers from at its end.
    outside.update(probe(daemon_pid(), outsider, "off"))
    compare(inside, outside)
    finish()


# By cgroup the kernel tells who is enrolled, until the process is marked.
CGROUPS = [
    ("the daemon's", "echo $$ >/sys/fs/cgroup/system.slice/headgate.service/cgroup.procs"),
    ("an outsider's", "echo $$ >/sys/fs/cgroup/system.slice/vm-outsider.service/cgroup.procs"),
    ("the root", "echo $$ >/sys/fs/cgroup/cgroup.procs"),
    ("one of its own", "mkdir /sys/fs/cgroup/vm-own; echo $$ >/sys/fs/cgroup/vm-own/cgroup.procs"),
]


def move(port, name, way):
    text = as_agent(f"cgroup{port}", f"sudo -n sh -c '{way}; cat /proc/self/cgroup; reach {port}'\n")
    n, s = len(contacts().get(port, [])), len(sessions().get(f"{ADDRESS}:{port}", []))
    result("lsm", "moves itself to another cgroup: " + name, "root in the tree", "mediated", "mediated" if n and n == s else f"{n} contacts, {s} sessions",
           text.splitlines()[0] if text else "")


def files():
    """What root may do to the files of the gate. Recorded as it is: root is root."""
    text = as_agent("reload", "sudo -n headgate reload; echo reload $?; sudo -n systemctl reload headgate; echo systemctl $?\n")
    lines = dict(l.split() for l in text.splitlines() if l.startswith(("reload ", "systemctl ")))
    result("lsm", "headgate reload", "root in the tree", "refused", "works" if lines.get("reload") == "0" else "refused", text[:160])
    result("lsm", "systemctl reload headgate", "root in the tree", "refused", "works" if lines.get("systemctl") == "0" else "refused")
    text = as_agent("uninstall", "sudo -n headgate uninstall --yes; echo uninstall $?\n")
    result("lsm", "headgate uninstall", "root in the tree", "refused", "works" if "uninstall 0" in text else "refused", text[:160])
    text = as_agent("rewrite", "sudo -n touch /etc/headgate/policies/vm.yaml; echo status-of-touch $?\n")
    result("lsm", "write to the policy's files", "root in the tree", "works", "works" if "status-of-touch 0" in text else "refused",
           "not covered: ProtectSystem=strict in the unit of the job, or no sudo")


def starve():
    """Root may stop the daemon by its cgroup, which no program here sees. Agents are refused then."""
    cgroup, old = "/sys/fs/cgroup/system.slice/headgate.service/cgroup.", daemon_pid()
    port = LAST - 10
    as_agent("freeze", f"sudo -n sh -c 'echo 1 >{cgroup}freeze; sleep 8'; reach {port}\n")
    met, n = read(f"{REACH}/{port}.got").strip(), len(contacts().get(port, []))
    result("lsm", "freezes the daemon's cgroup", "root in the tree", "refused", "refused" if not n and "not permitted" in met else f"{n} contacts", met[-100:])
    run(f"echo 0 >{cgroup}freeze")
    port -= 1
    as_agent("cgkill", f"sudo -n sh -c 'echo 1 >{cgroup}kill'; reach {port}\n", 60)
    until(lambda: daemon_pid() not in (0, old), 60)
    until(lambda: len(sessions().get(f"{ADDRESS}:{port}", [])) >= len(contacts().get(port, [])), 20)
    n, s = len(contacts().get(port, [])), len(sessions().get(f"{ADDRESS}:{port}", []))
    result("lsm", "cgroup.kill of the daemon", "root in the tree", "nothing unrecorded, and it is back",
           ("nothing unrecorded" if n <= s else f"{n} contacts, {s} sessions") + (", and it is back" if daemon_pid() not in (0, old) else ", and it is gone"),
           read(f"{REACH}/{port}.got").strip()[-100:])
    until(lambda: run("headgate status", check=False).returncode == 0, 60, 1)


if __name__ == "__main__":
    main()
