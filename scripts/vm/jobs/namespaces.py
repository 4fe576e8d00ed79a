#!/usr/bin/env python3
"""Containers with a network of their own: mediated from within it, and given up when they are gone."""
import os, re, time
from lib import *

SERVICE = "10.88.0.200"
PORTS = range(7001, 7021)


def service():
    """Somebody else on the bridge, who is no container: it notes from which address it was reached."""
    run("ip netns del svc; ip link del svc0", check=False)
    run(f"ip netns add svc && ip link add svc0 type veth peer name eth0 netns svc && ip link set svc0 master podman0 up && "
        f"ip -n svc address add {SERVICE}/16 dev eth0 && ip -n svc link set eth0 up && ip -n svc link set lo up")
    start_witness(SERVICE, "service", "svc")


def container(name, network):
    loop = f"while true; do if [ -e {REACH}/{name}.go ]; then read p a <{REACH}/{name}.go; rm {REACH}/{name}.go; reach $p $a; fi; sleep 1; done"
    run(["podman", "--log-level=error", "run", "-d", "--name", name, "--network", network, "--add-host", f"svc:{SERVICE}",
         "-v", f"{REACH}:{REACH}", "--rootfs", "/opt/container", "/bin/sh", "-c", loop], timeout=120)


def ask(name, port, to):
    for end in ("got", "tried"):
        run(f"rm -f {REACH}/{port}.{end}")
    write(f"{REACH}/{name}.part", f"{port} {to}\n")
    os.rename(f"{REACH}/{name}.part", f"{REACH}/{name}.go")
    return until(lambda: read(f"{REACH}/{port}.got").strip(), 40)


def address_of(name):
    text = run(["podman", "exec", name, "/bin/ip", "address"], check=False).stdout
    found = re.search(r"inet (10\.88\.\d+\.\d+)", text)
    return found.group(1) if found else ""


def gone_from_daemon():
    pid = daemon_pid()
    return sum("net:[" in os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd") if os.path.lexists(f"/proc/{pid}/fd/{fd}"))


def mediated(port, to, name="service"):
    met, mine = contacts(name).get(port, []), sessions().get(f"{to}:{port}", [])
    peers = sorted({p.rsplit(":", 1)[0] for p in met})
    return ("mediated" if met and len(met) == len(mine) else f"{len(met)} contacts, {len(mine)} sessions"), peers


def main():
    write("/etc/containers/containers.conf", '[network]\nnetwork_backend = "netavark"\n')
    prepare()
    start_witness()
    run("podman rm -f -t 0 -a", check=False)
    container("first", "podman")   # makes the bridge
    service()
    install()
    hosts = ", ".join(f'"{SERVICE}:{p}"' for p in PORTS)
    policy("    containers: [podman]", f"  - {{name: service, protocol: tcp, hosts: [{hosts}]}}", "  - {name: service, effect: allow, resources: [service]}")
    start_daemon()
    reload_policy()
    # One that ran before the daemon.
    answer = ask("first", 7001, SERVICE)
    if answer != "witness":
        answer = ask("first", 7001, SERVICE)
        say("its first connection failed: " + read(f"{REACH}/7001.got"))
    how, peers = mediated(7001, SERVICE)
    result("namespaces", "container from before, to an address on its bridge", "", "mediated", how, f"answer: {answer}")
    result("namespaces", "upstream connection comes from", "container from before", address_of("first"), " ".join(peers))
    # One that starts now.
    container("second", "podman")
    answer = ask("second", 7002, "svc")
    result("namespaces", "new container's first connection, by a name of its hosts file", "", "witness", str(answer))
    if answer != "witness":
        answer = ask("second", 7002, "svc")
    how, peers = mediated(7002, SERVICE)
    result("namespaces", "new container, by a name of its hosts file", "", "mediated", how, f"answer: {answer}")
    result("namespaces", "upstream connection comes from", "new container", address_of("second"), " ".join(peers))
    answer = ask("second", 7003, ADDRESS)
    how, peers = mediated(7003, ADDRESS, "witness")
    result("namespaces", "new container, to the host", "", "mediated", how, f"from {' '.join(peers)}; {answer}")
    answer = ask("second", 7250, SERVICE)
    result("namespaces", "new container, to what no resource names", "", "refused", "refused" if not contacts("service").get(7250) else "reached", str(answer))
    run("systemctl restart headgate", timeout=150)
    answer = ask("second", 7004, SERVICE)
    how, peers = mediated(7004, SERVICE)
    result("namespaces", "after a restart of the daemon", "", "mediated", how, f"answer: {answer}")
    held = gone_from_daemon()
    run("podman rm -f -t 0 first second", timeout=60)
    until(lambda: journal(400).count("no longer served") >= 2, 60, 1)
    result("namespaces", "given up after the containers are gone", "log", "2", str(journal(400).count("no longer served")))
    result("namespaces", "namespaces held by the daemon", "before and after", "2, 0", f"{held}, {gone_from_daemon()}")
    left = run("lsns -t net -n -o NS,PID,COMMAND", check=False).stdout.splitlines()
    say("network namespaces left: " + "; ".join(left))
    if failed:
        say(journal(40))
    run("systemctl stop service-vm; ip netns del svc", check=False)
    finish()


if __name__ == "__main__":
    main()
