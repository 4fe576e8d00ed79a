#!/usr/bin/env python3
"""Ways by which a job leaves its tree: who acts for it, and is that mediated?

Each way is tried by an enrolled unit, against a witness that is told from all
others by its port. It is mediated if the record has a session for every
connection that the witness got, not covered if the witness got more, refused if
it got none: then either the way itself failed, or the connection of who went it.
"""
import os, sys, time
from lib import *

POD = "sudo -n podman --log-level=error run --rm --cgroup-manager=cgroupfs"
CON = f"-v {REACH}:{REACH} --rootfs /opt/container /bin/reach"
API = """sudo -n sh -c 'c=$(curl -sS -m 20 --unix-socket /run/podman/podman.sock -H "Content-Type: application/json" \
-d "{{\\"rootfs\\":\\"/opt/container\\",\\"command\\":[\\"/bin/reach\\",\\"{port}\\"],\\"netns\\":{{\\"nsmode\\":\\"host\\"}},\
\\"mounts\\":[{{\\"type\\":\\"bind\\",\\"source\\":\\"/tmp/reach\\",\\"destination\\":\\"/tmp/reach\\"}}]}}" http://d/v4.0.0/libpod/containers/create) && echo "$c" && \
curl -sS -m 20 --unix-socket /run/podman/podman.sock -X POST http://d/v4.0.0/libpod/containers/$(echo "$c" | sed "s/.*\\"Id\\":\\"\\([0-9a-f]*\\).*/\\1/")/start'"""
DBUS = """sudo -n busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager StartTransientUnit \
'ssa(sv)a(sa(sv))' run-dbus-{port}.service replace 1 ExecStart 'a(sasb)' 1 /usr/local/bin/reach 2 reach {port} false 0"""
CORE = """sudo -n sh -c 'echo "|/usr/local/bin/reach {port}" >/proc/sys/kernel/core_pattern; ulimit -c unlimited; sh -c "kill -SEGV \\$\\$"; \
sleep 3; echo core >/proc/sys/kernel/core_pattern'"""
SSH_ROOT = """sudo -n sh -c 'mkdir -p -m 700 /root/.ssh; cat /home/agent/.ssh/id_ed25519.pub >/root/.ssh/authorized_keys; \
ssh -n -o BatchMode=yes -i /home/agent/.ssh/id_ed25519 root@localhost reach {port}'"""

# name, what to run, whether it goes on after the command returned
WAYS = [
    ("crontab", "echo '* * * * * /usr/local/bin/reach {port}' | crontab -", 75),
    ("crontab of root", "echo '* * * * * root /usr/local/bin/reach {port}' | sudo -n tee /etc/cron.d/vm-{port} >/dev/null", 75),
    ("directly", "reach {port}", 0),
    ("sudo", "sudo -n reach {port}", 0),
    ("sudo -i", "sudo -n -i reach {port}", 0),
    ("su -l", "sudo -n su -l agent -c 'reach {port}'", 0),
    ("systemd-run --user", "systemd-run --user -q --wait reach {port}", 5),
    ("systemd-run as root", "sudo -n systemd-run -q --wait /usr/local/bin/reach {port}", 5),
    ("systemd over D-Bus as root", DBUS, 15),
    ("at", "echo /usr/local/bin/reach {port} | at -M now", 20),
    ("ssh localhost", "ssh -n -o BatchMode=yes localhost reach {port}", 0),
    ("ssh localhost as root", SSH_ROOT, 0),
    ("core_pattern as root", CORE, 10),
    ("podman as root, host network", "sudo -n podman --log-level=error run --rm --network host " + CON + " {port}", 0),
    ("podman as root, host network, cgroupfs", POD + " --network host " + CON + " {port}", 0),
    ("podman as root, bridge, cgroupfs", POD + " --network podman " + CON + " {port}", 0),
    ("podman as root, no network, cgroupfs", POD + " --network none " + CON + " {port}", 0),
    ("podman rootless, host network", "podman --log-level=error run --rm --network host " + CON + " {port}", 0),
    ("podman.sock as root", API, 20),
]
EARLY = "container that runs already"
LATE = "container that somebody else starts"

# What a rule for the unit alone does, and what else can be written down.
RUNNER = 'units: ["actions.runner.*.service"]'
VARIANTS = {
    "nobody": ("    executables: [/nowhere]", "", ""),
    "unit": (f"    {RUNNER}", "", ""),
    "unit, strict": (f"    {RUNNER}", "", ""),
    "unit, user": (f"    {RUNNER}\n    users: [agent]", "", ""),
    "wide": ('    units: ["actions.runner.*.service", cron.service, atd.service, "run-*.service", podman-api.service]\n'
             "    users: [agent]\n    containers: [podman]",
             '  - {name: sshd, protocol: tcp, inspection: none, hosts: ["127.0.0.1:22", "[::1]:22"]}',
             "  - {name: no-ssh, effect: deny, resources: [sshd]}"),
}

M, R, N = "mediated", "refused", "not covered"


def expected(way, variant, names):
    """names: whether unix sockets are refused, by connect_unix or by LSM."""
    if variant == "nobody":
        return [R] if "no network" in way else [N]
    if way in (EARLY, LATE):
        return [M] if variant == "wide" else [N]
    if variant == "unit, strict":
        if way == "directly":
            return [M]
        if way in ("crontab", "at", "ssh localhost"):
            return [N, R]   # setgid programs do not work without new privileges
        return [R]
    if "no network" in way:
        return [R]
    if way in ("directly", "sudo", "sudo -i", "su -l") or "cgroupfs" in way or "rootless" in way:
        return [M] if "bridge" not in way else [M, R]
    if way == "core_pattern as root":
        return [N]
    if way in ("systemd-run --user", "systemd-run as root", "systemd over D-Bus as root", "podman.sock as root"):
        return [R] if names else [M] if variant == "wide" or variant == "unit, user" and way == "systemd-run --user" else [N]
    if way == "podman as root, host network":
        return [R] if names else [M]
    if way == "ssh localhost as root":
        return [R] if variant == "wide" else [N]
    if way == "crontab of root":
        return [M] if variant == "wide" else [N]
    if way == "ssh localhost":
        return [R] if variant == "wide" else [M] if variant == "unit, user" else [N]
    return [N] if variant == "unit" else [M]


def container(name, how="host"):
    """Starts a container as the machine's administrator, who is no agent. It waits until it is told where to."""
    loop = f"while true; do if [ -e {REACH}/{name}.go ]; then p=$(cat {REACH}/{name}.go); rm {REACH}/{name}.go; reach $p; fi; sleep 1; done"
    run(["podman", "--log-level=error", "run", "-d", "--rm", "--name", name, "--network", how, "-v", f"{REACH}:{REACH}", "--rootfs",
         "/opt/container", "/bin/sh", "-c", loop], timeout=120)


def tell(name, port):
    write(f"{REACH}/{name}.part", str(port))
    os.rename(f"{REACH}/{name}.part", f"{REACH}/{name}.go")


def got(port):
    return read(f"{REACH}/{port}.got").strip()


def attempt(variant, ports):
    """Tries all ways, and returns what each printed."""
    printed = {}
    tell("early", ports[EARLY])
    for way, script, _ in WAYS:
        began = time.monotonic()
        printed[way] = as_agent(str(ports[way]), script.replace("{{", "{").replace("}}", "}").replace("{port}", str(ports[way])) + "\n")
        say(f"{variant}: {way}: {time.monotonic() - began:.1f} s: {got(ports[way]) or 'nothing yet'}")
    container("late-" + str(ports[LATE]))
    tell("late-" + str(ports[LATE]), ports[LATE])
    for way, _, patience in WAYS:
        # The way was open if its command said so, or there is nothing to wait for.
        if patience and "status 0" in printed[way]:
            until(lambda: got(ports[way]), patience)
    until(lambda: got(ports[EARLY]) and got(ports[LATE]), 30)
    run("podman rm -f -t 0 late-" + str(ports[LATE]), check=False)
    run(f"rm -f /etc/cron.d/vm-*; crontab -u agent -r; rm -f /root/.ssh/authorized_keys", check=False)
    return printed


def judge(variant, ports, printed, names):
    met, recorded = contacts(), sessions() if variant != "nobody" else {}
    for way, port in ports.items():
        n, mine = len(met.get(port, [])), recorded.get(f"{ADDRESS}:{port}", [])
        tried, answer = read(f"{REACH}/{port}.tried").strip(), got(port)
        if n == 0:
            found = R
            note = f"its connection: {answer.splitlines()[-1]}" if tried and answer else "the way itself: " + " ".join(printed.get(way, "").split())[-140:]
        elif n > len(mine):
            found, note = N, f"{n} reached it, {len(mine)} sessions; {tried.splitlines()[0] if tried else ''}"
        else:
            found, note = M, tried.splitlines()[0] if tried else ""
        result("escape", way, variant, expected(way, variant, names), found, note)


def main():
    write("/etc/containers/containers.conf", '[network]\nnetwork_backend = "netavark"\n')
    prepare()
    start_witness()
    container("early")
    say("a container runs before the daemon")
    install()
    policy(VARIANTS["nobody"][0])
    run("systemd-run -q --unit=podman-api sh -c 'mkdir -p /run/podman; exec podman --log-level=error system service --time=0 unix:///run/podman/podman.sock'")
    start_daemon()
    say("the daemon runs")
    programs = " ".join(p["name"] for p in status()["programs"])
    names = "connect_unix" in programs or "lsm" in programs
    say(f"unix sockets are judged: {names}; {programs}")
    port = FIRST
    only = sys.argv[1:]
    for variant, (rules, resources, more) in VARIANTS.items():
        if only and variant not in only:
            continue
        drop_ins = f"/etc/systemd/system/{RUNNER_NAME}.d"
        run(f"rm -rf {drop_ins}; podman rm -f -t 0 -a --filter name=late", check=False)
        if "strict" in variant:
            run(f"install -D -m 644 -t {drop_ins} {HERE}/systemd/runner.d/*.conf")
        policy(rules, resources, more)
        run("systemctl daemon-reload")
        reload_policy()
        start_runner()
        ports = {}
        for way in [w for w, _, _ in WAYS] + [EARLY, LATE]:
            ports[way], port = port, port + 1
        printed = attempt(variant, ports)
        judge(variant, ports, printed, names)
    stop_runner()
    run("podman rm -f -t 0 -a; systemctl stop podman-api", check=False)
    finish()


if __name__ == "__main__":
    main()
