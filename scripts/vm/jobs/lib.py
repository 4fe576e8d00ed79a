"""What the jobs share: the daemon as a unit, a witness, an enrolled unit, results.

A job prints one line for each thing that it found out:
    RESULT|job|subject|variant|ok or FAIL|expected|found|note
and one for each thing that the table's reader has to know:
    FACT|job|name|value
"""
import json, os, shutil, subprocess, sys, time, urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ADDRESS = "10.66.0.1"          # the witness's, on a dummy interface
FIRST, LAST = 7001, 7250       # its ports: one for each try
REACH = "/tmp/reach"           # where tries leave what became of them
AGENT = 1500
failed = 0


def say(text):
    print(f"# {time.monotonic():7.1f} {text}", flush=True)


def run(command, timeout=60, check=True, **more):
    """Runs a shell command or a list; never longer than timeout."""
    try:
        done = subprocess.run(command, shell=isinstance(command, str), timeout=timeout, text=True, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, errors="replace", **more)
    except subprocess.TimeoutExpired as e:
        done = subprocess.CompletedProcess(command, 124, (e.stdout or b"").decode(errors="replace") if isinstance(e.stdout, bytes) else e.stdout or "")
    if check and done.returncode != 0:
        raise RuntimeError(f"{command}: status {done.returncode}: {done.stdout[-2000:]}")
    return done


def result(job, subject, variant, want, got, note=""):
    """One line of the table. want may be several, any of which will do."""
    global failed
    wants = want if isinstance(want, (list, tuple)) else [want]
    ok = got in wants
    failed += not ok
    line = [job, subject, variant, "ok" if ok else "FAIL", " or ".join(wants), got, note]
    print("RESULT|" + "|".join(str(f).replace("|", "/").replace("\n", " ")[:300] for f in line), flush=True)
    return ok


def fact(job, name, value):
    print(f"FACT|{job}|{name}|{value}", flush=True)


def until(what, seconds, step=0.3):
    """Waits for what() to be true, and returns its last value."""
    end = time.monotonic() + seconds
    while True:
        value = what()
        if value or time.monotonic() > end:
            return value
        time.sleep(step)


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, mode)


def read(path):
    try:
        with open(path, errors="replace") as f:
            return f.read()
    except OSError:
        return ""


def kernel():
    return os.uname().release


# --- the daemon

def install():
    """Puts everything where a package would."""
    unit = HERE + "/systemd"
    shutil.copy(HERE + "/headgate", "/usr/bin/headgate")
    os.chmod("/usr/bin/headgate", 0o755)
    for name, to in [("headgate.service", "/usr/lib/systemd/system/"), ("agents.slice", "/usr/lib/systemd/system/"),
                     ("headgate.sysusers.conf", "/usr/lib/sysusers.d/headgate.conf"), ("headgate.tmpfiles.conf", "/usr/lib/tmpfiles.d/headgate.conf")]:
        shutil.copy(f"{unit}/{name}", to)
    run("systemd-sysusers headgate.conf; systemd-tmpfiles --create headgate.conf")
    write("/etc/headgate/headgate.yaml", "version: 1\nlog: {level: debug}\n", 0o640)
    run("systemctl daemon-reload")


POLICY = """version: 1
agents:
  - name: runner
{rules}
resources:
  - name: witness
    protocol: tcp
    hosts: [{hosts}]
{resources}
rules:
  - {{name: work, effect: allow, resources: [witness]}}
{more}
defaults: {{mode: enforce, unmatched: deny, unknown_operation: deny, on_failure: closed}}
"""


def policy(rules, resources="", more="", ports=range(FIRST, LAST + 1), address=ADDRESS):
    hosts = ", ".join(f'"{address}:{p}"' for p in ports)
    write("/etc/headgate/policies/vm.yaml", POLICY.format(rules=rules, hosts=hosts, resources=resources, more=more), 0o640)


def start_daemon():
    run("systemctl reset-failed headgate; systemctl start headgate", timeout=150)


def daemon_pid():
    return int(run("systemctl show -p MainPID --value headgate").stdout.strip() or 0)


def status():
    return json.loads(run(["headgate", "status", "-o", "json"]).stdout)


def health():
    return json.loads(run("curl -sS -m 20 --unix-socket /run/headgate/control.sock http://headgate/v1/doctor").stdout)


def reload_policy():
    run(["headgate", "reload"], timeout=60)


def journal(lines=60, unit="headgate"):
    return run(f"journalctl -q --no-pager -o cat -n {lines} -u {unit}", check=False).stdout


def sessions():
    """How many sessions the record has, by the port that was asked for."""
    found = {}
    text = run(["headgate", "sessions", "list", "-o", "json"], timeout=60).stdout
    for s in json.loads(text) or []:
        target = s["origin"]["target"]
        found.setdefault(target, []).append(s)
    return found


# --- the witness

WITNESS = """
import selectors, socket, sys
address, first, last, log = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
poll = selectors.DefaultSelector()
out = open(log, "a", buffering=1)
for port in range(first, last + 1):
    s = socket.create_server((address, port), reuse_port=False)
    s.setblocking(False)
    poll.register(s, selectors.EVENT_READ, port)
print("ready", flush=True)
out.write("ready\\n")
talking = {}
while True:
    for key, _ in poll.select():
        if key.data:
            c, peer = key.fileobj.accept()
            out.write(f"{key.data} {peer[0]} {peer[1]}\\n")
            c.setblocking(False)
            poll.register(c, selectors.EVENT_READ, 0)
            continue
        c = key.fileobj
        try:
            if c.recv(4096):
                c.send(b"witness\\n")
                continue
        except OSError:
            pass
        poll.unregister(c)
        c.close()
"""


def start_witness(address=ADDRESS, name="witness", netns=None):
    log = f"/run/{name}.log"
    write(f"/run/{name}.py", WITNESS)
    if os.path.exists(log):
        os.remove(log)
    extra = f"-p NetworkNamespacePath=/run/netns/{netns}" if netns else ""
    run(f"systemctl stop {name}-vm; systemctl reset-failed {name}-vm; systemd-run -q --unit={name}-vm {extra} -p LimitNOFILE=4096 "
        f"python3 /run/{name}.py {address} {FIRST} {LAST} {log}")
    if not until(lambda: "ready" in read(log), 30):
        raise RuntimeError("the witness did not start: " + journal(20, name + "-vm"))


def contacts(name="witness"):
    found = {}
    for line in read(f"/run/{name}.log").splitlines():
        if line != "ready":
            port, *peer = line.split()
            found.setdefault(int(port), []).append(":".join(peer))
    return found


# --- who tries

# Says that it was started, connects, says what came of it.
REACH_HOST = """#!/bin/bash
umask 0
d={reach} a={address}
[ -z "$2" ] || a=$2
echo "uid $(id -u) in $(cat /proc/self/cgroup)" >>$d/$1.tried
x=$( (exec 3<>/dev/tcp/$a/$1 && echo hello >&3 && read -r -t 15 x <&3 && echo "$x") 2>&1 )
echo "${{x:-no answer}}" >$d/$1.part && mv $d/$1.part $d/$1.got
"""
REACH_CONTAINER = """#!/bin/sh
umask 0
d={reach} a={address}
[ -z "$2" ] || a=$2
echo "uid $(id -u) in $(cat /proc/self/cgroup)" >>$d/$1.tried
x=$( (echo hello; sleep 2) | nc -w 10 $a $1 2>&1 )
echo "${{x:-no answer}}" >$d/$1.got
"""

# Runs what is put in the directory, one after another.
RUNNER = """#!/bin/bash
cd {reach}/todo
echo up >{reach}/up
while true; do
  for f in *.sh; do
    [ -e "$f" ] || continue
    timeout --kill-after=2 40 bash "$f" >{reach}/${{f%.sh}}.out 2>&1 </dev/null
    echo "status $?" >>{reach}/${{f%.sh}}.out
    mv "$f" "$f.done"
  done
  sleep 0.2
done
"""
RUNNER_UNIT = """[Service]
User=agent
Environment=XDG_RUNTIME_DIR=/run/user/1500 HOME=/home/agent
WorkingDirectory=/home/agent
ExecStart=/usr/local/bin/vm-runner
KillMode=control-group
"""
RUNNER_NAME = "actions.runner.test.service"


def prepare():
    """The machine's part: an address for the witness, and the programs of those who try."""
    run(f"ip link show hg0 >/dev/null 2>&1 || (ip link add hg0 type dummy && ip address add {ADDRESS}/24 dev hg0 && ip link set hg0 up)")
    os.makedirs(REACH + "/todo", exist_ok=True)
    os.chmod(REACH, 0o777)
    os.chmod(REACH + "/todo", 0o777)
    write("/usr/local/bin/reach", REACH_HOST.format(reach=REACH, address=ADDRESS), 0o755)
    write("/opt/container/bin/reach", REACH_CONTAINER.format(reach=REACH, address=ADDRESS), 0o755)
    for applet in ("mkdir", "mv", "timeout", "date", "true"):
        link = "/opt/container/bin/" + applet
        if not os.path.lexists(link):
            os.symlink("busybox", link)
    write("/usr/local/bin/vm-runner", RUNNER.format(reach=REACH), 0o755)
    write("/etc/systemd/system/" + RUNNER_NAME, RUNNER_UNIT)
    run("systemctl daemon-reload")


def start_runner():
    stop_runner()
    run(f"systemctl start {RUNNER_NAME}")
    if not until(lambda: os.path.exists(REACH + "/up"), 20):
        raise RuntimeError("the enrolled unit did not start: " + journal(20, RUNNER_NAME))


def stop_runner():
    run(f"systemctl stop {RUNNER_NAME}; rm -f {REACH}/up {REACH}/todo/*", check=False)


def as_agent(name, script, seconds=50):
    """Has the enrolled unit run a script, and returns its output."""
    out = f"{REACH}/{name}.out"
    if os.path.exists(out):
        os.remove(out)
    write(f"{REACH}/todo/{name}.part", script)
    os.rename(f"{REACH}/todo/{name}.part", f"{REACH}/todo/{name}.sh")
    until(lambda: os.path.exists(f"{REACH}/todo/{name}.sh.done"), seconds, 0.1)
    return read(out)


def finish():
    say(f"{failed} failed")
    sys.exit(1 if failed else 0)
