#!/usr/bin/env python3
"""Agents in networks of their own, containers and `ip netns`: mediated from within, dialled from there, given up when they are gone."""
import os, re
from lib import *

SERVICE = "10.88.0.200"     # somebody on the containers' bridge, who is no container
JOB = "10.88.0.201"         # the agent's `ip netns` on that bridge
PORTS = range(7001, 7040)


def namespace(name, address):
    """A namespace on the bridge that podman made."""
    run(f"ip netns del {name}; ip link del v-{name}", check=False)
    run(f"ip netns add {name} && ip link add v-{name} type veth peer name eth0 netns {name} && ip link set v-{name} master podman0 up && "
        f"ip -n {name} address add {address}/16 dev eth0 && ip -n {name} link set eth0 up && ip -n {name} link set lo up")


def container(name, network):
    """A container that connects where it is told to."""
    loop = f"while true; do if [ -e {REACH}/{name}.go ]; then read p a <{REACH}/{name}.go; rm {REACH}/{name}.go; reach $p $a; fi; sleep 1; done"
    hosts = [] if network == "none" else ["--add-host", f"svc:{SERVICE}"]
    run(["podman", "--log-level=error", "run", "-d", "--name", name, "--network", network, *hosts,
         "-v", f"{REACH}:{REACH}", "--rootfs", "/opt/container", "/bin/sh", "-c", loop], timeout=120)


def ask(name, port, to):
    """Has a container connect, and returns what came of it."""
    run(f"rm -f {REACH}/{port}.got {REACH}/{port}.tried")
    write(f"{REACH}/{name}.part", f"{port} {to}\n")
    os.rename(f"{REACH}/{name}.part", f"{REACH}/{name}.go")
    return until(lambda: read(f"{REACH}/{port}.got").strip(), 40)


def ask_netns(port, to):
    run(f"rm -f {REACH}/{port}.got {REACH}/{port}.tried")
    text = as_agent(f"netns-{port}", f"sudo -n ip netns exec job reach {port} {to}\n")
    return read(f"{REACH}/{port}.got").strip() or text


def address_of(name):
    text = run(["podman", "exec", name, "/bin/ip", "address"], check=False).stdout
    found = re.search(r"inet (10\.88\.\d+\.\d+)", text)
    return found.group(1) if found else "unknown"


def served():
    """How many namespaces the daemon has a place in, its own left out."""
    return sum(not l["home"] for l in health()["listeners"])


def held():
    """How many namespaces the daemon keeps alive by a descriptor."""
    names = []
    for fd in os.listdir(f"/proc/{daemon_pid()}/fd"):
        try:
            names.append(os.readlink(f"/proc/{daemon_pid()}/fd/{fd}"))
        except FileNotFoundError:
            continue   # closed meanwhile
    return sum(n.startswith("net:[") for n in names)


def alive():
    """How many network namespaces there are, held by a process, a mount or a descriptor: each has an end of a veth out here."""
    return len(re.findall(r"^\d+: (?:veth|v-)", run("ip -o link show type veth").stdout, re.M))


def counts(port, to, log="service"):
    """How a port was reached, and from which addresses."""
    met, mine = contacts(log).get(port, []), sessions().get(f"{to}:{port}", [])
    peers = sorted({p.rsplit(":", 1)[0] for p in met})
    if not met:
        return f"refused, {len(mine)} sessions", peers
    return ("mediated" if len(met) <= len(mine) else f"{len(met)} connections, {len(mine)} sessions"), peers


def first_then(who, once, port, address):
    """The first connection in a namespace may be refused, while the daemon comes there; the second is served."""
    answer = once(port)
    result("namespaces", "first connection", who, ["witness", "refused"], answer if answer == "witness" else "refused", str(answer))
    if answer != "witness":
        answer = once(port)
    how, peers = counts(port, SERVICE)
    result("namespaces", "to an address on its bridge", who, "mediated", how, f"answer: {answer}")
    result("namespaces", "upstream connection comes from its own address", who, address, " ".join(peers))


def main():
    write("/etc/containers/containers.conf", '[network]\nnetwork_backend = "netavark"\n')
    prepare()
    start_witness()
    run("podman rm -f -t 0 -a", check=False)
    container("first", "podman")   # makes the bridge
    namespace("svc", SERVICE)
    namespace("job", JOB)
    start_witness(SERVICE, "service", "svc")
    install()
    hosts = ", ".join(f'"{SERVICE}:{p}"' for p in PORTS)
    policy('    containers: [podman]\n    units: ["actions.runner.*.service"]', f"  - {{name: service, protocol: tcp, hosts: [{hosts}]}}",
           "  - {name: service, effect: allow, resources: [service]}")
    before = alive()
    start_daemon()
    start_runner()
    first_then("container from before", lambda p: ask("first", p, SERVICE), 7001, address_of("first"))
    container("second", "podman")
    first_then("new container", lambda p: ask("second", p, SERVICE), 7002, address_of("second"))
    first_then("agent in ip netns", lambda p: ask_netns(p, SERVICE), 7003, JOB)

    answer = ask("second", 7004, "svc")
    how, peers = counts(7004, SERVICE)
    result("namespaces", "by a name of its hosts file", "new container", "mediated", how, f"answer: {answer}")
    answer = ask("second", 7005, ADDRESS)
    how, peers = counts(7005, ADDRESS, "witness")
    result("namespaces", "to an address of the host", "new container", "mediated", how, f"answer: {answer}")
    for who, once in (("new container", lambda p: ask("second", p, SERVICE)), ("agent in ip netns", lambda p: ask_netns(p, SERVICE))):
        answer = once(7250)
        result("namespaces", "to what no resource names", who, "refused", "reached" if 7250 in contacts("service") else "refused", str(answer))

    container("lonely", "none")
    for _ in range(2):
        answer = ask("lonely", 7006, ADDRESS)
    how, _ = counts(7006, ADDRESS, "witness")
    result("namespaces", "to an address of the host", "container without a network", "refused", how.split(",")[0], f"{how}; {answer}")

    # That of `ip netns` only while somebody is in it, and some seconds more.
    result("namespaces", "namespaces that the daemon serves", "", ["3", "4"], str(served()), "first, second, lonely, and perhaps job")
    run("systemctl restart headgate", timeout=150)
    for who, once, port in (("container from before", lambda p: ask("first", p, SERVICE), 7010), ("agent in ip netns", lambda p: ask_netns(p, SERVICE), 7011)):
        answer = once(port)
        how, _ = counts(port, SERVICE)
        result("namespaces", "first connection after a restart of the daemon", who, "mediated", how, f"answer: {answer}")

    run("podman rm -f -t 0 first second lonely; ip netns del job", timeout=60)
    left = until(lambda: served() == 0 and alive() <= before - 2, 60, 1)
    result("namespaces", "listeners are given up when the namespaces are gone", "", "0", str(served()), f"{journal(400).count('no longer served')} lines in the log say so")
    result("namespaces", "descriptors of namespaces that the daemon holds", "", "0", str(held()))
    result("namespaces", "the namespaces are gone: ends of veth pairs outside", "", str(before - 2), str(alive()), f"before: {before}, first and job; left: svc")
    if not left:
        say(journal(40))
    stop_runner()
    run("systemctl stop service-vm; ip netns del svc", check=False)
    finish()


if __name__ == "__main__":
    main()
