#!/usr/bin/env python3
"""What systemd does with the unit, and what becomes of agents meanwhile.

An enrolled unit and an outsider connect to a witness all the time, each state of
the daemon with a port of its own. Open would be: an agent's connection that
begins at the witness's address instead of loopback, an agent's datagram that was
sent, or more contacts at the witness than sessions in the record.
"""
import collections, ctypes, os, re, signal, struct, time
import lib
from lib import *

LOAD = r"""
import errno, json, os, socket, sys, threading, time
who, address, control = sys.argv[1:4]
log = os.open("/tmp/reach/load." + who, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

def setting():
    while True:
        try:
            with open(control) as f:
                return json.load(f)[who]
        except (OSError, ValueError):
            time.sleep(0.05)

def note(began, kind, port, outcome, local):
    os.write(log, ("%.3f %.3f %s %d %s %s\n" % (began, time.monotonic(), kind, port, outcome, local)).encode())

def stream(kind, port):
    began, local = time.monotonic(), "-"
    s = socket.socket()
    s.settimeout(45)
    try:
        s.connect((address, port))
        local = s.getsockname()[0]
        s.sendall(b"hello\n")
        outcome = "served" if s.recv(100).startswith(b"witness") else "closed"
    except TimeoutError:
        outcome = "timeout"
    except OSError as e:
        outcome = errno.errorcode.get(e.errno, "error")
    s.close()
    note(began, kind, port, outcome, local)

def datagram(port):
    began = time.monotonic()
    with socket.socket(type=socket.SOCK_DGRAM) as s:
        try:
            s.sendto(b"hello", (address, port))
            outcome = "sent"
        except OSError as e:
            outcome = errno.errorcode.get(e.errno, "error")
    note(began, "udp", port, outcome, "-")

def often(n):
    while True:
        s = setting()
        if n >= s["threads"]:
            time.sleep(0.3)
            continue
        stream("tcp", s["port"])
        time.sleep(s["pause"])

for n in range(4):
    threading.Thread(target=often, args=(n,), daemon=True).start()
# Processes that begin now, and datagrams.
while True:
    s = setting()
    pid = os.fork()
    if pid == 0:
        try:
            stream("fork", s["port"])
        finally:
            os._exit(0)
    if who == "agent":
        datagram(s["port"])
    time.sleep(1)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""
LOAD_UNIT = """[Service]
User={user}
OOMScoreAdjust=-900
ExecStart=/usr/bin/python3 /usr/local/bin/vm-load {who} {address} /run/vm-load.json
"""
# An agent's unit that nobody has seen before.
LATE_UNIT = """[Service]
User=agent
ExecStart=/usr/local/bin/reach {port}
"""
SCARCE = 6               # MiB that are not enough for the daemon
OUTSIDER = LAST          # the outsider's port
AGENT_LOAD = "actions.runner.load.service"
PINS = "/sys/fs/bpf/headgate"
ports = iter(range(FIRST, LAST))
current = dict(port=0, threads=2, pause=0.1)
states = {}              # port: what was the matter


# --- the load

def state(name, threads=2, pause=0.1):
    """From now on agents try another port: what they meet there belongs to this state."""
    current.update(port=next(ports), threads=threads, pause=pause)
    states[current["port"]] = name
    both = {"agent": current, "outsider": dict(port=OUTSIDER, threads=1, pause=0.1)}
    write("/run/vm-load.part", json.dumps(both))
    os.rename("/run/vm-load.part", "/run/vm-load.json")
    say("state: " + name)
    time.sleep(1)
    return current["port"]


def tries(who, kinds=("tcp", "fork")):
    found = []
    for line in read(REACH + "/load." + who).splitlines():
        f = line.split()
        if len(f) == 6 and f[2] in kinds:
            found.append((float(f[0]), float(f[1]), int(f[3]), f[4], f[5]))
    return found


def at(port, after=0.0, kinds=("tcp", "fork")):
    return [t for t in tries("agent", kinds) if t[2] == port and t[0] >= after]


def summary(of):
    slowest = max((t[1] - t[0] for t in of), default=0)
    return ", ".join(f"{n} {o}" for o, n in sorted(collections.Counter(t[3] for t in of).items())) + f"; slowest {slowest:.1f} s"


def served_after(port, moment, seconds):
    """Waits until an attempt that began later was served, and returns how long that took."""
    found = until(lambda: [t for t in at(port, moment) if t[3:] == ("served", "127.0.0.1")], seconds)
    return found[0][1] - moment if found else None


def settle():
    """Ends a state."""
    state("in between", threads=1, pause=1)
    time.sleep(1)


def start_load():
    write("/usr/local/bin/vm-load", LOAD, 0o755)
    write("/etc/systemd/system/" + AGENT_LOAD, LOAD_UNIT.format(user="agent", who="agent", address=ADDRESS))
    write("/etc/systemd/system/vm-outsider-load.service", LOAD_UNIT.format(user="outsider", who="outsider", address=ADDRESS))
    run(f"systemctl daemon-reload; systemctl restart {AGENT_LOAD} vm-outsider-load")


# --- the daemon

def show(*names):
    text = run(["systemctl", "show", "headgate", "-p", ",".join(names)]).stdout
    return dict(l.split("=", 1) for l in text.splitlines() if "=" in l)


def doctor():
    return run(["headgate", "doctor", "-o", "json"], check=False, timeout=120)


def said(what):
    """What systemd, or the daemon, said since the boot."""
    return run(["journalctl", "-q", "--no-pager", "-o", "cat", "-u", "headgate", "--case-sensitive=false", "-g", what], check=False).stdout.strip()


def healthy(seconds=60):
    return until(lambda: doctor().returncode == 0, seconds, 2)


def pins():
    return sorted(f for _, _, files in os.walk(PINS) for f in files)


def recovered(name, port, moment, seconds):
    took = served_after(port, moment, seconds)
    result("service", name, "served again", "yes", "no" if took is None else "yes", f"after {took:.1f} s" if took is not None else journal(15))
    return took


def refused_between(name, port, begin, end):
    """Nothing that was tried and answered in between was served."""
    of = [t for t in at(port) if t[0] >= begin and t[1] <= end]
    bad = [t for t in of if t[3] == "served"]
    result("service", name, "agents meanwhile", "refused", "refused" if of and not bad else "served" if bad else "nothing was tried", summary(of))


def late(port):
    """Starts a unit of an agent's name that has no cgroup yet, and says what its one connection met."""
    # A cgroup that the daemon did not see made is in no rule.
    name = f"actions.runner.late{port}.service"
    states[port] = "a unit that was started meanwhile"
    write("/etc/systemd/system/" + name, LATE_UNIT.format(port=port))
    run(f"systemctl daemon-reload; systemctl start {name}", check=False, timeout=30)
    until(lambda: os.path.exists(f"{REACH}/{port}.got"), 25)
    return ("served: " if contacts().get(port) else "refused: ") + read(f"{REACH}/{port}.got").strip()[-90:]


# --- the kernel's objects, without bpftool

libc = ctypes.CDLL(None, use_errno=True)
NEXT = {"programs": (11, 13), "maps": (12, 14), "links": (31, 30)}


def bpf(cmd, attr):
    return libc.syscall(321, cmd, attr, len(attr))


def objects(kind):
    """The numbers of all that is loaded, with the names."""
    following, opened = NEXT[kind]
    found, number = {}, 0
    while True:
        attr = ctypes.create_string_buffer(struct.pack("<III", number, 0, 0), 128)
        if bpf(following, attr) < 0:
            return found
        number = struct.unpack_from("<I", attr, 4)[0]
        fd = bpf(opened, ctypes.create_string_buffer(struct.pack("<III", number, 0, 0), 128))
        if fd < 0:
            continue
        info = ctypes.create_string_buffer(256)
        bpf(15, ctypes.create_string_buffer(struct.pack("<IIQ", fd, 256, ctypes.addressof(info)), 128))
        os.close(fd)
        # struct bpf_prog_info.name and struct bpf_map_info.name; links have none.
        offset = {"programs": 64, "maps": 24}.get(kind)
        found[number] = info.raw[offset:offset + 16].split(b"\0")[0].decode(errors="replace") if offset else ""


def ours():
    """What is loaded and was not before the daemon came, less what systemd made."""
    return {kind: {n: name for n, name in objects(kind).items() if n not in before[kind] and not name.startswith("sd_")} for kind in NEXT}


before = {}


# --- the states

def baseline():
    port = state("healthy")
    time.sleep(6)
    of = at(port)
    result("service", "healthy", "agents", "served", "served" if of and {t[3] for t in of} == {"served"} else "not all", summary(of))
    ok = healthy()
    result("service", "headgate doctor", "healthy", "0", str(doctor().returncode if not ok else 0), "" if ok else doctor().stdout[-600:])


def second_instance():
    port, pid = state("a second instance"), daemon_pid()
    done = run(["headgate", "daemon"], check=False, timeout=60)
    result("service", "second instance", "headgate daemon", "refused", "refused" if done.returncode not in (0, 124) else f"status {done.returncode}", done.stdout[-200:])
    time.sleep(3)
    of = at(port)
    result("service", "second instance", "the first", "undisturbed",
           "undisturbed" if daemon_pid() == pid and of and {t[3] for t in of} == {"served"} else "disturbed", summary(of))


def restarts():
    port = state("restarts under load", threads=4, pause=0.01)
    seen = [daemon_pid()]
    for _ in range(5):
        run("systemctl restart headgate", timeout=150)
        seen.append(daemon_pid())
        served_after(port, time.monotonic(), 40)
    time.sleep(2)
    settle()
    time.sleep(3)
    of = at(port)
    failed = [t for t in of if t[3] != "served"]
    result("service", "5 restarts under load", "processes", "6", str(len(set(seen))))
    result("service", "5 restarts under load", "failed connections", "0", str(len(failed)), f"of {len(of)}: {summary(of)}")


def killed():
    port = state("kill -9")
    time.sleep(2)
    old, moment = daemon_pid(), time.monotonic()
    os.kill(old, 9)
    recovered("kill -9", port, moment + 1, 90)
    result("service", "kill -9", "restarted by systemd", "yes", "yes" if daemon_pid() not in (0, old) else "no", str(show("NRestarts", "Result")))
    time.sleep(2)
    settle()
    of = at(port)
    result("service", "kill -9", "agents meanwhile", "served or refused", "served or refused" if {t[3] for t in of} <= {"served", "EPERM", "ECONNREFUSED", "ECONNRESET", "closed"} else "other",
           summary(of))


def stopped():
    """SIGSTOP, until systemd's watchdog ends it."""
    port = state("SIGSTOP")
    time.sleep(2)
    old, moment = daemon_pid(), time.monotonic()
    os.kill(old, signal.SIGSTOP)
    time.sleep(8)
    stale = time.monotonic()
    time.sleep(4)
    text = late(next(ports))
    after_late = time.monotonic()
    hung = daemon_pid() == old
    if hung:
        refused_between("SIGSTOP", port, stale, after_late)
    result("service", "SIGSTOP", "an agent's unit that starts meanwhile", "refused", text.split(":")[0], text + ("" if hung else " (the watchdog was faster)"))
    if hung:
        result("service", "SIGSTOP", "the same with the drop-in for runners", ["not started", "refused"], with_dropin(next(ports)),
               "" if daemon_pid() == old else "the watchdog came meanwhile")
    if not until(lambda: daemon_pid() not in (0, old), 150, 1):
        say("the watchdog did nothing: " + journal(20))
    result("service", "SIGSTOP", "the watchdog", "killed it", "killed it" if said("watchdog timeout") and daemon_pid() != old else "did nothing",
           f"{time.monotonic() - moment:.0f} s after the signal; NRestarts {show('NRestarts')}")
    recovered("SIGSTOP", port, time.monotonic(), 60)
    settle()


def out_of_memory():
    port = state("out of memory")
    time.sleep(2)
    cgroup = "/sys/fs/cgroup/system.slice/headgate.service/"
    need, count = int(read(cgroup + "memory.current") or 0), int(show("NRestarts")["NRestarts"])
    moment = time.monotonic()
    run(f"systemctl set-property --runtime headgate MemoryMax={SCARCE}M MemorySwapMax=0", timeout=90, check=False)
    killed_by = until(lambda: said("oom-kill"), 60, 1)
    result("service", "out of memory", "the kernel's OOM killer", "took it", "took it" if killed_by else "did not",
           f"needs {need >> 20} MiB, got {SCARCE}: " + said("oom-kill")[:150])
    # Again and again.
    time.sleep(12)
    stale = time.monotonic()
    time.sleep(5)
    text = late(next(ports))
    refused_between("out of memory", port, stale, time.monotonic())
    result("service", "out of memory", "an agent's unit that starts meanwhile", "refused", text.split(":")[0], text)
    result("service", "out of memory", "restarted by systemd", "more than once", "more than once" if int(show("NRestarts")["NRestarts"]) > count + 1 else "no",
           str(show("NRestarts", "Result")))
    run("systemctl set-property --runtime headgate MemoryMax=infinity", timeout=90, check=False)
    moment = time.monotonic()
    recovered("out of memory", port, moment, 120)
    settle()


def pins_deleted():
    port = state("pins deleted")
    there = pins()
    for name in there:
        os.remove(next(os.path.join(d, name) for d, _, files in os.walk(PINS) if name in files))
    back = until(lambda: pins() == there, 20)
    result("service", "pins deleted", "back", f"{len(there)}", f"{len(pins())}", "" if back else journal(8))
    time.sleep(3)
    of = at(port)
    result("service", "pins deleted", "agents meanwhile", "served", "served" if of and {t[3] for t in of} == {"served"} else "not all", summary(of))
    port = state("pins deleted, they came back, kill -9")
    time.sleep(2)
    moment = time.monotonic()
    os.kill(daemon_pid(), 9)
    recovered("pins deleted, back, kill -9", port, moment + 1, 90)
    settle()


def pins_taken():
    """Root takes the pins away and kills the daemon before it can put them back: that is uninstalling, and nothing holds."""
    port = state("pins deleted and kill -9 at once")
    time.sleep(2)
    pid = daemon_pid()
    for where, _, files in os.walk(PINS):
        for name in files:
            os.remove(os.path.join(where, name))
    os.kill(pid, 9)
    moment = time.monotonic()
    until(lambda: daemon_pid() not in (0, pid) and healthy(1), 90, 1)
    free = [t for t in at(port, moment) if t[4] == ADDRESS]
    result("service", "pins deleted and kill -9 at once", "agents until it is back", "free", "free" if free else "mediated",
           f"{len(free)} of {len(at(port, moment))}; root outside of every tree did it")
    # From here on it is as ever, for whoever ran all the time too.
    port = state("after pins deleted and kill -9 at once")
    recovered("pins deleted and kill -9 at once", port, time.monotonic(), 60)
    settle()


def stop():
    port = state("stopped")
    time.sleep(2)
    run("systemctl stop headgate", timeout=120)
    moment = time.monotonic()
    time.sleep(8)
    refused_between("stopped", port, moment, time.monotonic())
    # Whoever listened there would be sent connections of agents.
    done = run(["runuser", "-u", "outsider", "--", "python3", "-c", "import socket; socket.create_server(('127.0.0.1', 9640))"], check=False)
    result("service", "stopped", "an outsider takes the proxy's port", "refused", "works" if done.returncode == 0 else "refused", done.stdout.strip()[-80:])
    done = doctor()
    result("service", "headgate doctor", "stopped", "3", str(done.returncode))
    text = late(next(ports))
    result("service", "stopped", "an agent's unit that starts meanwhile", "refused", text.split(":")[0], text)
    text = with_dropin(next(ports))
    result("service", "stopped", "the same with the drop-in for runners", "not started", text)
    start_daemon()
    recovered("stopped", port, time.monotonic(), 60)
    settle()


def with_dropin(port):
    name = f"actions.runner.late{port}.service"
    states[port] = "a unit with the drop-in that was started meanwhile"
    write("/etc/systemd/system/" + name, LATE_UNIT.format(port=port))
    write(f"/etc/systemd/system/{name}.d/10-headgate.conf", read(HERE + "/systemd/runner.d/10-headgate.conf").replace("Wants=", "#Wants="))
    done = run(f"systemctl daemon-reload; systemctl start {name}", check=False, timeout=30)
    time.sleep(3)
    if done.returncode and not os.path.exists(f"{REACH}/{port}.tried"):
        return "not started"
    return "served" if contacts().get(port) else "refused"


def uninstall():
    port = state("uninstalled")
    done = run("headgate uninstall --yes", check=False)
    result("service", "headgate uninstall", "the daemon runs", "refused", "refused" if done.returncode else "works", done.stdout[-120:])
    run("systemctl stop headgate", timeout=120)
    moment = time.monotonic()
    done = run("headgate uninstall --yes", check=False)
    result("service", "headgate uninstall", "stopped", "0", str(done.returncode), done.stdout.replace("\n", "; "))
    uninstalled = time.monotonic()
    result("service", "headgate uninstall", "pins left", "0", str(len(pins()) + os.path.isdir(PINS)), " ".join(os.listdir("/sys/fs/bpf")))
    until(lambda: not any(ours().values()), 20)
    left = ours()
    for kind in NEXT:
        result("service", "headgate uninstall", kind + " left", "0", str(len(left[kind])), " ".join(f"{n}:{name}" for n, name in left[kind].items()))
    time.sleep(4)
    of = [t for t in at(port, uninstalled) if t[1] <= time.monotonic()]
    result("service", "headgate uninstall", "agents", "free", "free" if of and {(t[3], t[4]) for t in of} == {("served", ADDRESS)} else "not free", summary(of))
    again = state("started after uninstall")
    start_daemon()
    moment = time.monotonic()
    time.sleep(8)
    of = at(again, moment)
    result("service", "started after uninstall", "agents", "served by the gate",
           "served by the gate" if of and {(t[3], t[4]) for t in of} == {("served", "127.0.0.1")} else "not", summary(of))
    result("service", "started after uninstall", "doctor", "yes", "yes" if healthy() else "no", "")
    settle()
    return port, again, moment


# --- over all states

def never_open(free, again, moment):
    """free is the port of agents that had to be free; from moment on those of again had to be mediated."""
    seen, recorded = contacts(), sessions()
    everything = tries("agent")
    for port, name in sorted(states.items()):
        # Here agents had to be free, or were seen to be.
        if port == free or name == "pins deleted and kill -9 at once":
            continue
        direct = [t for t in everything if t[2] == port and t[4] == ADDRESS and (port != again or t[0] > moment)]
        sent = [t for t in at(port, kinds=("udp",)) if t[3] == "sent" and (port != again or t[0] > moment)]
        n, s = len(seen.get(port, [])), len(recorded.get(f"{ADDRESS}:{port}", []))
        unaccounted = max(n - s, 0) if port != again else 0
        result("service", "never open", name, "0 direct, 0 datagrams, 0 unrecorded", f"{len(direct)} direct, {len(sent)} datagrams, {unaccounted} unrecorded",
               f"{len([t for t in everything if t[2] == port])} tries, {n} contacts, {s} sessions")
    others = tries("outsider")
    bad = [t for t in others if t[3] != "served"]
    result("service", "outsiders", "all the time", "0 failed", f"{len(bad)} failed", f"of {len(others)}: {summary(others)}")
    verified = run("headgate sessions verify", check=False, timeout=120)
    result("service", "the record", "verifies", "0", str(verified.returncode), verified.stdout.strip()[-200:])


def main():
    prepare()
    start_witness()
    install()
    policy('    units: ["actions.runner.*.service"]')
    before.update({kind: objects(kind) for kind in NEXT})
    start_daemon()
    state("begin")
    start_load()
    only = os.environ.get("ONLY", "").split()
    for step in (baseline, second_instance, restarts, killed, stopped, out_of_memory, pins_deleted, pins_taken, stop):
        if only and step.__name__ not in only:
            continue
        try:
            step()
        except Exception as e:
            result("service", step.__name__, "the job itself", "goes on", "trouble", repr(e))
    free = uninstall()
    run(f"systemctl stop {AGENT_LOAD} vm-outsider-load", check=False)
    never_open(*free)
    say("the daemon said: " + "\n".join(l for l in journal(4000).splitlines() if '"level":"error"' in l or "panic" in l)[-3000:])
    finish()


if __name__ == "__main__":
    main()
