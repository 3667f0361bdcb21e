"""The network: a namespace for each machine, and one that is the switch between them. Nothing of it touches the host's
own network but one link with an address, by which this machine reaches the cluster; no firewall is asked or changed.

The switch has a namespace of its own because the host may pass what crosses its own bridges through its firewall.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from . import Trouble

# Of the private networks one that hardly anybody uses; each run takes 256 addresses of it.
NETWORKS = [f"10.213.{number}" for number in range(256)]
SWITCH = "switch"
# The last number of an address. Nodes follow FIRST_NODE.
HOST, OTHERS, FIRST_NODE, MOST_NODES = 1, {"bus": 2, "proxy": 3, "shop": 4}, 11, 200
# Where iproute2 keeps namespaces.
NAMESPACES = Path("/run/netns")
CLONE_NEWNET = 0x4000_0000
WIRE = Path(__file__).with_name("wire.py")
# A hardware address that nobody has.
NOBODY = "02:00:00:00:ff:ff"


def ip(*arguments, kind="ip"):
    """Runs `ip` (or `tc`) and returns what it prints."""
    done = subprocess.run([kind, *map(str, arguments)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Trouble(f"{kind} {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    return done.stdout


def free_network():
    """Which of the networks is not used on this machine."""
    used = ip("-4", "route", "show", "table", "all") + ip("-4", "address")
    for network in NETWORKS:
        if f"{network}." not in used:
            return network
    raise Trouble("all networks from 10.213.0.0/24 to 10.213.255.0/24 are in use: see `ip route`")


class Network:
    """The network of one run. `name` is in the name of all that belongs to it."""

    def __init__(self, name, network):
        self.name, self.network = name, network
        # The kernel wants at most 15 bytes.
        self.link = f"cl-{name}"

    def namespace(self, part):
        return f"clarion-{self.name}-{part}"

    def address(self, part):
        number = FIRST_NODE - 1 + int(part.removeprefix("node-")) if part.startswith("node-") else OTHERS[part]
        return f"{self.network}.{number}"

    def build(self, parts):
        """Makes the switch, the way to it from here, and the machines."""
        switch = self.namespace(SWITCH)
        ip("netns", "add", switch)
        ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        ip("-n", switch, "link", "set", "bridge", "up")
        ip("link", "add", self.link, "type", "veth", "peer", "name", "host", "netns", switch)
        self.plug("host")
        ip("address", "add", f"{self.network}.{HOST}/24", "dev", self.link)
        ip("link", "set", self.link, "up")
        for part in parts:
            own = self.namespace(part)
            ip("netns", "add", own)
            ip("-n", switch, "link", "add", part, "type", "veth", "peer", "name", "eth0", "netns", own)
            self.plug(part)
            ip("-n", own, "address", "add", f"{self.address(part)}/24", "dev", "eth0")
            for link in ("lo", "eth0"):
                ip("-n", own, "link", "set", link, "up")

    def plug(self, port):
        switch = self.namespace(SWITCH)
        ip("-n", switch, "link", "set", port, "master", "bridge")
        ip("-n", switch, "link", "set", port, "up")

    def parts(self):
        """The namespaces that there are."""
        prefix = self.namespace("")
        return [path.name.removeprefix(prefix) for path in sorted(NAMESPACES.glob(f"{prefix}*"))]

    def remove(self):
        """Ends all that runs in it and takes it away, however much of it there is."""
        parts = self.parts()
        deadline = time.monotonic() + 10
        while running := [pid for part in parts for pid in self.pids(part)]:
            if time.monotonic() > deadline:
                raise Trouble(f"these processes do not end: {running}")
            send(running, signal.SIGKILL)
            time.sleep(0.02)
        for part in parts:
            ip("netns", "delete", self.namespace(part))
        # A link goes with its other end, but not at once.
        if Path(f"/sys/class/net/{self.link}").exists():
            subprocess.run(["ip", "link", "delete", self.link], capture_output=True, check=False)

    def pids(self, part):
        """The processes on a machine; none where there is none."""
        command = ["ip", "netns", "pids", self.namespace(part)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return [int(pid) for pid in done.stdout.split()]

    def inside(self, part, act):
        """Calls `act` on a machine: the sockets that it opens are that machine's."""

        def run():
            with (NAMESPACES / self.namespace(part)).open() as namespace:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(namespace.fileno(), CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), f"cannot enter {namespace.name}")
            return act()

        # Only this thread goes there, and it does not come back.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(run).result()

    def cut(self, part):
        ip("-n", self.namespace(SWITCH), "link", "set", part, "down")

    def cut_between(self, one, other):
        """What each sends to the other comes to nobody, and neither is told: that is what makes such cuts bad."""
        for here, there in ((one, other), (other, one)):
            ip("-n", self.namespace(here), "neighbour", "replace", self.address(there), "lladdr", NOBODY, "nud", "permanent", "dev", "eth0")

    def slow(self, part, delay, loss, rate):
        """Slows both directions of a machine's link, in the kernel or, where that cannot do it, with a wire of our own.
        Says which."""
        self.unslow(part)
        netem = ["root", "netem", "delay", f"{delay}s", "loss", f"{loss}%", *(["rate", f"{rate}bit"] if rate else [])]
        try:
            ip("-n", self.namespace(SWITCH), "qdisc", "replace", "dev", part, *netem, kind="tc")
            ip("-n", self.namespace(part), "qdisc", "replace", "dev", "eth0", *netem, kind="tc")
        except Trouble as trouble:
            if "qdisc kind is unknown" not in str(trouble) and "not found" not in str(trouble):
                raise
            self.wire(part, delay, loss, rate)
            return "a program: this kernel has no sch_netem"
        return "netem"

    def wire(self, part, delay, loss, rate):
        """Puts a slow wire between a machine's link and the switch."""
        switch, before, after = self.namespace(SWITCH), *slow_ends(part)
        ip("-n", switch, "link", "add", before, "type", "veth", "peer", "name", after)
        ip("-n", switch, "link", "set", part, "nomaster")
        ip("-n", switch, "link", "set", before, "up")
        self.plug(after)
        command = [sys.executable, WIRE, part, before, delay, loss, rate]
        wire = subprocess.Popen(
            ["ip", "netns", "exec", switch, *map(str, command)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )
        # It says when it listens.
        if not wire.stdout.readline():
            raise Trouble(f"the slow wire of {part} does not start")
        wire.stdout.close()

    def unslow(self, part):
        switch = self.namespace(SWITCH)
        for namespace, link in ((switch, part), (self.namespace(part), "eth0")):
            if "netem" in ip("-n", namespace, "qdisc", "show", "dev", link, kind="tc"):
                ip("-n", namespace, "qdisc", "delete", "dev", link, "root", kind="tc")
        if wires := self.wires(part):
            send(wires, signal.SIGKILL)
        if slow_ends(part)[0] in self.ports():
            ip("-n", switch, "link", "delete", slow_ends(part)[0])
            ip("-n", switch, "link", "set", part, "master", "bridge")

    def wires(self, part):
        return [pid for pid in self.pids(SWITCH) if part.encode() in command_of(pid)]

    def heal(self, part):
        """Undoes all that was done to a machine's link."""
        self.unslow(part)
        for other in self.cut_from(part):
            for here, there in ((part, other), (other, part)):
                ip("-n", self.namespace(here), "neighbour", "delete", self.address(there), "dev", "eth0")
        ip("-n", self.namespace(SWITCH), "link", "set", part, "up")

    def cut_from(self, part):
        """Whom this one cannot reach."""
        gone = ip("-n", self.namespace(part), "neighbour", "show", "nud", "permanent")
        return [other for other in self.parts() if other != SWITCH and f"{self.address(other)} " in gone]

    def ports(self):
        """The switch's ports, and whether each is up."""
        links = json.loads(ip("-j", "-n", self.namespace(SWITCH), "link", "show"))
        return {link["ifname"]: "UP" in link["flags"] for link in links}

    def state(self, part):
        """How a machine's link is."""
        if not self.ports()[part]:
            return "cut"
        if others := self.cut_from(part):
            return f"cut from {', '.join(others)}"
        slowed = "netem" in ip("-n", self.namespace(SWITCH), "qdisc", "show", "dev", part, kind="tc")
        return "slow" if slowed or self.wires(part) else "up"


def slow_ends(part):
    """The two ends of the link that a slow wire is tied to."""
    number = part.removeprefix("node-")
    return f"slow-{number}", f"slow-{number}-end"


def command_of(pid):
    """A process's arguments; none when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def send(pids, number):
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
