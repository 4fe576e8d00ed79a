#!/usr/bin/env python3
"""Ways by which a job leaves its tree: who acts for it, and is that mediated?

Each way is tried by an enrolled unit, against a port of the witness of its own.
    mediated     the record has a session for every connection that the witness got
    not covered  the witness got more than that
    refused      the way is open, and its connection is refused
    shut         the way itself fails: nobody acts for the job
Arguments are the variants to try; none means all.
"""
import os, sys, time
from lib import *

M, R, S, N = "mediated", "refused", "shut", "not covered"

# What a rule for the unit alone does, and what else can be written down.
# Who is enrolled once stays so: each variant enrols what the one before it does, and more.
UNIT = 'units: ["actions.runner.*.service"]'
WIDE = ('    units: ["actions.runner.*.service", cron.service, atd.service, "run-*.service"]\n'
        '    users: [agent]\n    containers: ["*"]')
SSHD = '  - {name: sshd, protocol: tcp, inspection: none, hosts: ["127.0.0.1:22", "[::1]:22"]}\n'
NO_SSH = "  - {name: no-ssh, effect: deny, resources: [sshd]}\n"
SOCKETS = ("  - {name: services, protocol: unix, paths: [/run/dbus/system_bus_socket, /run/systemd/private, /run/podman/podman.sock, "
           "/run/user/1500/bus, /run/user/1500/systemd/private]}\n")
ASK = "  - {name: ask, effect: allow, resources: [services]}\n"
VARIANTS = {
    "nobody": dict(rules="    executables: [/nowhere]", about="no rule names the job: what each way does without headgate"),
    "unit": dict(rules=f"    {UNIT}", about="the rule names the runner's unit, and nothing else"),
    "unit, drop-in": dict(rules=f"    {UNIT}", drop_ins=["10-headgate.conf"],
                          about="the same, and the unit has `scripts/systemd/runner.d/10-headgate.conf`"),
    "unit, both drop-ins": dict(rules=f"    {UNIT}", drop_ins=["10-headgate.conf", "20-headgate-strict.conf"],
                                about="the same, and the unit has `20-headgate-strict.conf` as well"),
    "unit, user": dict(rules=f"    {UNIT}\n    users: [agent]", about="the rule names the unit and the user that it runs as"),
    "wide": dict(rules=WIDE, resources=SSHD, more=NO_SSH,
                 about="the rule names unit and user, cron, atd, the units that systemd-run makes, and all containers; "
                       "another one denies this host's sshd"),
    "wide, sockets allowed": dict(rules=WIDE, resources=SSHD + SOCKETS, more=NO_SSH + ASK,
                                  about="the same, and the job may ask systemd, D-Bus and the container service"),
}

POD = "podman --log-level=error run --rm"
CON = f"-v {REACH}:{REACH} --rootfs /opt/container /bin/reach {{port}}"
# The first connection in a new namespace is refused: the daemon is not there yet.
CON_AGAIN = (f"-v {REACH}:{REACH} --rootfs /opt/container /bin/sh -c 'for i in 1 2 3 4 5; do reach {{port}}; "
             f'[ "$(cat {REACH}/{{port}}.got)" = witness ] && break; sleep 2; done\'')
API = """sudo -n sh -c 'c=$(curl -sS -m 20 --unix-socket /run/podman/podman.sock -H "Content-Type: application/json" \
-d "{\\"rootfs\\":\\"/opt/container\\",\\"command\\":[\\"/bin/reach\\",\\"{port}\\"],\\"netns\\":{\\"nsmode\\":\\"host\\"},\
\\"mounts\\":[{\\"type\\":\\"bind\\",\\"source\\":\\"/tmp/reach\\",\\"destination\\":\\"/tmp/reach\\"}]}" http://d/v4.0.0/libpod/containers/create) && echo "$c" && \
curl -sS -m 20 --unix-socket /run/podman/podman.sock -X POST http://d/v4.0.0/libpod/containers/$(echo "$c" | sed "s/.*\\"Id\\":\\"\\([0-9a-f]*\\).*/\\1/")/start'"""
DBUS = """sudo -n busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager StartTransientUnit \
'ssa(sv)a(sa(sv))' run-dbus-{port}.service replace 1 ExecStart 'a(sasb)' 1 /usr/local/bin/reach 2 reach {port} false 0"""
CORE = """sudo -n sh -c 'echo "|/usr/local/bin/reach {port}" >/proc/sys/kernel/core_pattern || exit; ulimit -c unlimited; sh -c "kill -SEGV \\$\\$"; \
sleep 3; echo core >/proc/sys/kernel/core_pattern'"""
SSH_ROOT = """sudo -n sh -c 'mkdir -p -m 700 /root/.ssh; cat /home/agent/.ssh/id_ed25519.pub >/root/.ssh/authorized_keys; \
ssh -n -o BatchMode=yes -i /home/agent/.ssh/id_ed25519 root@localhost reach {port}'"""
# systemd reads its units anew on SIGHUP, and starts sshd again if it is killed.
SIGNALS = """sudo -n sh -c 'd=/etc/systemd/system/ssh.service.d; mkdir -p $d && printf "[Service]\\nExecStartPre=-/usr/local/bin/reach {port}\\n" >$d/vm.conf && \
kill -HUP 1 && sleep 2 && kill -9 $(cat /run/sshd.pid)'"""
UDEV = """sudo -n sh -c 'echo "ACTION==\\"change\\", KERNEL==\\"lo\\", RUN+=\\"/usr/bin/systemd-run /usr/local/bin/reach {port}\\"" >/etc/udev/rules.d/99-vm.rules && \
sleep 4 && echo change >/sys/class/net/lo/uevent'"""

# name, what to run, how long it may go on after the command has returned
WAYS = [
    ("crontab", "echo '* * * * * /usr/local/bin/reach {port}' | crontab -", 75),
    ("crontab of root", "echo '* * * * * root /usr/local/bin/reach {port}' | sudo -n tee /etc/cron.d/vm-{port} >/dev/null", 75),
    ("directly", "reach {port}", 0),
    ("sudo", "sudo -n reach {port}", 0),
    ("sudo -i", "sudo -n -i reach {port}", 0),
    ("sudo -u somebody else", "sudo -n -u outsider reach {port}", 0),
    ("su -l", "sudo -n su -l agent -c 'reach {port}'", 0),
    ("nsenter into PID 1 as root", "sudo -n nsenter -t 1 -a /usr/local/bin/reach {port}", 0),
    ("systemd-run --user", "systemd-run --user -q --wait reach {port}", 5),
    ("systemd-run as root", "sudo -n systemd-run -q --wait /usr/local/bin/reach {port}", 5),
    ("systemd-run as root, with a unit's name", "sudo -n systemd-run -q --wait --unit=vm-{port} /usr/local/bin/reach {port}", 5),
    ("systemd over D-Bus as root", DBUS, 15),
    ("unit file and signals to systemd as root", SIGNALS, 20),
    ("udev rule as root", UDEV, 20),
    ("at", "echo /usr/local/bin/reach {port} | at -M now", 20),
    ("ssh localhost", "ssh -n -o BatchMode=yes localhost reach {port}", 0),
    ("ssh localhost as root", SSH_ROOT, 0),
    ("core_pattern as root", CORE, 10),
    ("podman run as root", f"sudo -n {POD} --network host {CON}", 0),
    ("podman run as root, cgroupfs", f"sudo -n {POD} --cgroup-manager=cgroupfs --network host {CON}", 0),
    ("podman run as root, no cgroup", f"sudo -n {POD} --cgroups=disabled --network host {CON}", 0),
    ("podman run as root, no cgroup, bridge", f"sudo -n {POD} --cgroups=disabled --network podman {CON_AGAIN}", 0),
    ("podman run as root, no cgroup, no network", f"sudo -n {POD} --cgroups=disabled --network none {CON}", 0),
    ("podman exec as root", "sudo -n podman --log-level=error exec early /bin/reach {port}", 0),
    ("podman run, rootless", f"{POD} --network host {CON}", 0),
    ("podman run, rootless, no cgroup", f"{POD} --cgroups=disabled --network host {CON}", 0),
    ("podman.sock as root", API, 20),
]
EARLY = "container that runs already"
LATE = "container that somebody else starts"

# What a way needs decides how it ends.
LINEAGE = ("directly", "sudo", "sudo -i", "sudo -u somebody else", "su -l")
ADMIN = ("nsenter into PID 1 as root", "podman run as root, no cgroup", "podman run as root, no cgroup, bridge", "podman exec as root")
ASKS_SYSTEMD = ("systemd-run as root", "systemd-run as root, with a unit's name", "systemd over D-Bus as root", "podman.sock as root")

ROOT = "root may have any part of the host act for it: no sudo for jobs (`20-headgate-strict.conf`), or a host of their own"
CRON = "`units: [cron.service, atd.service]` in the rule; for what is not root's, `users:` will do; `20-headgate-strict.conf` shuts it"
SSHD_TOO = "deny this host's port 22 by a resource, as the wide rule does; `users:` covers who logs in as the same user"
ASKED = "do not allow the sockets of systemd, D-Bus and container services: by default they are shut, where the kernel looks at them (6.7 or later, or BPF LSM)"
REMEDIES = {
    "crontab": CRON, "crontab of root": CRON, "at": CRON, "ssh localhost": SSHD_TOO, "ssh localhost as root": SSHD_TOO,
    "systemd-run --user": ASKED + "; else `users:`", "podman.sock as root": ASKED + '; else `containers: ["*"]`',
    "systemd-run as root": ASKED + '; else `units: ["run-*.service"]`', "systemd over D-Bus as root": ASKED,
    "systemd-run as root, with a unit's name": ASKED, "udev rule as root": ROOT, "core_pattern as root": ROOT,
    "unit file and signals to systemd as root": ROOT, EARLY: 'a rule with `containers: ["*"]`', LATE: 'a rule with `containers: ["*"]`',
}

NOTES = {
    "podman run": "crun asks systemd for a cgroup over D-Bus, and loads a BPF program for the rules of devices. The first is shut by default, the second "
                  "wherever the BPF LSM programs are attached, for whoever is enrolled. `--cgroups=disabled` needs neither; its processes stay in the tree",
    "services that start containers": 'enrol the containers (`containers: ["*"]`), not the unit of the service: what an enrolled service starts is held '
                                      "to the same, so that no container would start where the BPF LSM programs are attached",
    "udev rule": "the rule has udev call systemd-run, since udev's own unit may connect nowhere; a unit of another name would not be covered by the wide rule either",
    "unit, drop-in": "root in the job lacks CAP_SYS_ADMIN and CAP_SYS_PTRACE, without which podman, nsenter and newuidmap fail",
}


def expected(way, variant, names, tier):
    """names: whether the kernel looks at unix sockets, by connect_unix or by LSM; tier: whether LSM programs are attached."""
    drop_ins = VARIANTS[variant].get("drop_ins", [])
    strict, bounded = len(drop_ins) > 1, len(drop_ins) > 0
    wide, user = variant.startswith("wide"), variant == "unit, user" or variant.startswith("wide")
    closed = names and variant != "wide, sockets allowed"
    if way.endswith("no network"):
        return S if bounded else R
    if variant == "nobody":
        return N
    if way in (EARLY, LATE):
        return M if wide else N
    if way == "ssh localhost":
        return S if wide else M if user else N
    if way == "directly":
        return M
    if way == "systemd-run --user":
        return S if closed or strict else M if user else N
    if way == "podman run, rootless, no cgroup":
        return S if bounded else M   # newuidmap needs CAP_SYS_ADMIN
    if way == "podman run, rootless":
        return S if closed or bounded else M
    if strict:
        return S   # all others need sudo, or a setgid program
    if way in LINEAGE:
        return M
    if way in ADMIN:
        return S if bounded else M
    if way == "podman run as root, cgroupfs":
        return S if bounded or tier else M   # its runtime loads a program for the devices' rules
    if way == "podman run as root":
        return S if bounded or tier or closed else M
    if way in ASKS_SYSTEMD:
        return S if closed else M if wide and "name" not in way else N
    if way == "ssh localhost as root":
        return S if wide else N
    if way in ("crontab", "at"):
        return M if user else N
    if way in ("crontab of root", "udev rule as root"):
        return M if wide else N
    return N   # core_pattern, unit file and signals


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
        printed[way] = as_agent(str(ports[way]), script.replace("{port}", str(ports[way])) + "\n")
        say(f"{variant}: {way}: {time.monotonic() - began:.1f} s: {got(ports[way]) or 'nothing yet'}")
    late = f"late-{ports[LATE]}"
    container(late)
    tell(late, ports[LATE])
    for way, _, patience in WAYS:
        # The way is open if its command says so; else there is nothing to wait for.
        if patience and "status 0" in printed[way]:
            until(lambda: got(ports[way]), patience)
    until(lambda: got(ports[EARLY]) and got(ports[LATE]), 30)
    run(f"podman rm -f -t 0 {late}", check=False)
    run("rm -rf /etc/cron.d/vm-* /etc/udev/rules.d/99-vm.rules /etc/systemd/system/ssh.service.d /root/.ssh/authorized_keys; "
        "crontab -u agent -r; echo core >/proc/sys/kernel/core_pattern; systemctl daemon-reload; systemctl start ssh", check=False)
    return printed


def judge(variant, ports, printed, kernel_side):
    met, recorded = contacts(), sessions()
    for way, port in ports.items():
        n, mine = len(met.get(port, [])), recorded.get(f"{ADDRESS}:{port}", [])
        tried = (read(f"{REACH}/{port}.tried").strip().splitlines() or [""])[0]
        if n > len(mine):
            found, note = N, f"{n} connections, {len(mine)} sessions; {tried}"
        elif n:
            found, note = M, tried
        elif tried:
            found, note = R, "its connection: " + (got(port).splitlines() or ["nothing came of it"])[-1]
        else:
            found, note = S, " ".join(printed.get(way, "").split())[-200:]
        result("escape", way, variant, expected(way, variant, *kernel_side), found, note)


def begin(variant):
    """Makes the variant's rules hold, and starts the unit anew under them."""
    v = VARIANTS[variant]
    drop_ins = f"/etc/systemd/system/{RUNNER_NAME}.d"
    run(f"rm -rf {drop_ins}")
    for name in v.get("drop_ins", []):
        run(f"install -D -m 644 -t {drop_ins} {HERE}/systemd/runner.d/{name}")
    policy(v["rules"], v.get("resources", ""), v.get("more", ""))
    # Or rootless podman joins the user namespace that it made under the variant before.
    run("runuser -u agent -- env XDG_RUNTIME_DIR=/run/user/1500 podman system migrate", check=False)
    run("systemctl daemon-reload")
    reload_policy()
    start_runner()


def main():
    write("/etc/containers/containers.conf", '[network]\nnetwork_backend = "netavark"\n')
    prepare()
    start_witness()
    container("early")
    install()
    policy(VARIANTS["nobody"]["rules"])
    run("systemd-run -q --unit=podman-api sh -c 'mkdir -p /run/podman; exec podman --log-level=error system service --time=0 unix:///run/podman/podman.sock'")
    start_daemon()
    programs = [p["name"] for p in status()["programs"]]
    tier = any("_lsm_" in p for p in programs)
    # Such programs load and attach without it, and are never called.
    active = "bpf" in read("/sys/kernel/security/lsm").strip().split(",")
    result("escape", "the daemon says that it has BPF LSM programs", "", "yes" if active else "no", "yes" if tier else "no",
           read("/sys/kernel/security/lsm").strip())
    tier = active
    names = tier or any("connect_unix" in p for p in programs)
    fact("escape", "kernel", kernel())
    fact("escape", "BPF LSM programs", "called" if tier else "not called")
    fact("escape", "unix sockets", "judged" if names else "not looked at")
    for way, text in REMEDIES.items():
        fact("escape", "remedy " + way, text)
    for about, text in NOTES.items():
        fact("escape", "note " + about, text)
    port = FIRST
    for variant, v in VARIANTS.items():
        if sys.argv[1:] and variant not in sys.argv[1:]:
            continue
        fact("escape", "variant " + variant, v["about"])
        if SOCKETS in v.get("resources", "") and not names:
            say(f"{variant}: this kernel does not look at them, so that it would be the same as wide")
            continue
        begin(variant)
        ports = {}
        for way in [w for w, _, _ in WAYS] + [EARLY, LATE]:
            ports[way], port = port, port + 1
        printed = attempt(variant, ports)
        judge(variant, ports, printed, (names, tier))
    stop_runner()
    run("podman rm -f -t 0 -a; systemctl stop podman-api", check=False)
    finish()


if __name__ == "__main__":
    main()
