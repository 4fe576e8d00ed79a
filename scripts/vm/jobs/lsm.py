#!/usr/bin/env python3
"""The hardening tier: what root in an enrolled tree may not do, tried in the tree and outside of it.

Outside everything has to work, or a refusal inside means nothing. What turns the gate off is tried outside last or not at all.
"""
import json, os, time
from lib import *

# Prints for each deed how it went: an errno's name, or ok.
PROBE = r"""
import ctypes, errno, json, os, signal, socket, subprocess, sys
daemon, outsider, inside = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "inside"
libc = ctypes.CDLL(None, use_errno=True)
found = {}

def deed(name, do):
    try:
        do()
        found[name] = "ok"
    except OSError as e:
        found[name] = errno.errorcode.get(e.errno, str(e.errno))

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

deed("AF_PACKET", made(17, socket.SOCK_RAW, 0x0300))
deed("AF_VSOCK", made(40, socket.SOCK_STREAM))
deed("AF_XDP", made(44, socket.SOCK_RAW))
deed("AF_ALG", made(38, socket.SOCK_SEQPACKET))
deed("raw IP", made(2, socket.SOCK_RAW, 255))
deed("UDP-Lite", made(2, socket.SOCK_DGRAM, 136))
deed("AF_NETLINK", made(16, socket.SOCK_RAW))
d = "/run/vm-lsm/"
deed("denied socket by its name", connected(d + "denied"))
deed("denied socket by a symbolic link", connected("/tmp/vm-link"))
deed("denied socket by a hard link", connected(d + "hard"))
deed("denied datagram socket by a symbolic link", sent("/tmp/vm-link-dgram"))
deed("other socket", connected(d + "open"))
deed("system bus by a symbolic link", connected("/tmp/vm-bus"))
deed("systemd's private socket by a symbolic link", connected("/tmp/vm-private"))
deed("bus of a user by a symbolic link", connected("/tmp/vm-userbus"))
deed("user's systemd by a symbolic link", connected("/tmp/vm-userprivate"))
deed("ptrace of its own child", child)
deed("ptrace of an outsider", attach(outsider))
deed("ptrace of the daemon", attach(daemon))
deed("/proc/PID/mem of the daemon", lambda: open("/proc/%d/mem" % daemon, "rb").close())
deed("bpf()", bpf)
if inside:
    pins = "/sys/fs/bpf/headgate"
    def pin():
        for dir, _, files in os.walk(pins):
            for f in files:
                os.unlink(os.path.join(dir, f))
                return
        raise OSError(errno.ENOENT, "")
    def renamed():
        for dir, _, files in os.walk(pins):
            for f in files:
                os.rename(os.path.join(dir, f), os.path.join(dir, f + "_x"))
                return
        raise OSError(errno.ENOENT, "")
    deed("signal 0 to the daemon", lambda: os.kill(daemon, 0))
    deed("kill -9 of the daemon", lambda: os.kill(daemon, 9))
    deed("SIGSTOP to the daemon", lambda: os.kill(daemon, 19))
    deed("SIGHUP to the daemon", lambda: os.kill(daemon, 1))
    deed("rm of a pin", pin)
    deed("mv of a pin", renamed)
    deed("umount -l /sys/fs/bpf", lambda: call(libc.umount2(b"/sys/fs/bpf", 2)))
    deed("umount -l /sys", lambda: call(libc.umount2(b"/sys", 2)))
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
# Cgroup hooks refuse these too, before any LSM.
POLICY = dict(rules='    units: ["actions.runner.*.service"]',
              resources='  - {name: private, protocol: unix, paths: [/run/vm-lsm/denied, /run/vm-lsm/denied-dgram]}',
              more="  - {name: no-private, effect: deny, resources: [private]}")


def counted(prefix):
    return {k: v for k, v in status()["counters"].items() if k.startswith(prefix)}


def main():
    prepare()
    start_witness()
    install()
    write("/run/vm-server.py", SERVER)
    run("rm -rf /run/vm-lsm; systemctl stop vm-server; systemd-run -q --unit=vm-server python3 /run/vm-server.py", check=False)
    until(lambda: os.path.exists("/run/vm-lsm/hard"), 20)
    for link, to in (("link", "/run/vm-lsm/denied"), ("link-dgram", "/run/vm-lsm/denied-dgram"), ("bus", "/run/dbus/system_bus_socket"),
                     ("private", "/run/systemd/private"), ("userbus", "/run/user/1500/bus"), ("userprivate", "/run/user/1500/systemd/private")):
        run(["ln", "-sfn", to, "/tmp/vm-" + link])
    write("/usr/local/bin/vm-lsm.py", PROBE)
    policy(**POLICY)
    start_daemon()
    reload_policy()
    tier = sorted(p["name"] for p in status()["programs"] if "_lsm_" in p["name"])
    result("lsm", "programs attached", "", "9", str(len(tier)), "lsm=" + read("/sys/kernel/security/lsm").strip())
    run("systemctl stop vm-outsider; systemd-run -q --unit=vm-outsider sleep 3600", check=False)
    outsider = int(run("systemctl show -p MainPID --value vm-outsider").stdout)
    outside = json.loads(run(f"python3 /usr/local/bin/vm-lsm.py {daemon_pid()} {outsider} outside", timeout=90).stdout.splitlines()[-1])
    pid = daemon_pid()
    start_runner()
    before = counted("hardened_")
    text = as_agent("lsm", f"sudo -n python3 /usr/local/bin/vm-lsm.py {pid} {outsider} inside\n", 90)
    try:
        inside = json.loads(next(l for l in text.splitlines() if l.startswith("{")))
    except StopIteration:
        inside = {}
        say("the probe said: " + text[-1500:])
    for deed, there in inside.items():
        free = outside.get(deed, "not tried")
        lacks = free in ("EAFNOSUPPORT", "EPROTONOSUPPORT", "ESOCKTNOSUPPORT")
        want = ["ok"] if deed in FREE else ["EPERM", "EACCES"]
        result("lsm", deed, "root in the tree", want, there, f"outside: {free}" + (" (this kernel has none, the refusal comes first)" if lacks else ""))
    after = counted("hardened_")
    for name in sorted(after):
        result("lsm", name, "counted", "yes", "yes" if after[name] > before.get(name, 0) else "no", f"{before.get(name, 0)} -> {after[name]}")
    result("lsm", "the daemon is the same", "", "yes", "yes" if daemon_pid() == pid else "no")
    files(pid)
    stop_runner()
    run("systemctl stop vm-server vm-outsider", check=False)
    finish()


def files(pid):
    """What root may do to the files of the gate. Recorded as it is: root is root."""
    port = LAST
    policy_port = f"{ADDRESS}:{port}"
    # Into the daemon's own cgroup.
    as_agent("cgroup", f"sudo -n sh -c 'echo $$ >/sys/fs/cgroup/system.slice/headgate.service/cgroup.procs; reach {port}'\n")
    n, s = len(contacts().get(port, [])), len(sessions().get(policy_port, []))
    result("lsm", "connect from the daemon's cgroup", "root in the tree", "mediated", "mediated" if n and n == s else f"{n} contacts, {s} sessions")
    text = as_agent("reload", "sudo -n headgate reload; echo reload $?; sudo -n systemctl reload headgate; echo systemctl $?\n")
    lines = dict(l.split() for l in text.splitlines() if l.startswith(("reload ", "systemctl ")))
    result("lsm", "headgate reload", "root in the tree", "refused", "works" if lines.get("reload") == "0" else "refused", text[:160])
    result("lsm", "systemctl reload headgate", "root in the tree", "refused", "works" if lines.get("systemctl") == "0" else "refused")
    text = as_agent("rewrite", "sudo -n touch /etc/headgate/policies/vm.yaml; echo status-of-touch $?\n")
    result("lsm", "write to the policy's files", "root in the tree", "works", "works" if "status-of-touch 0" in text else "refused",
           "not covered: ProtectSystem=strict in the unit of the job, or no sudo")


if __name__ == "__main__":
    main()
