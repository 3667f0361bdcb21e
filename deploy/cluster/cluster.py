"""One run of the cluster: what is started on which machine, and what can be done to it."""

import fcntl
import json
import os
import pwd
import resource
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from . import Trouble, proxy
from .net import MOST_NODES, Network, free_network, ip, send

ROOT = Path(__file__).resolve().parents[2]
RUNS = Path("/run/clarion-local")
# How long anything may take before it counts as failed, in seconds: a node's drain takes at most 30.
PATIENCE = 60
# Where the example has its page, unless it is told otherwise.
DASHBOARD = 9000
# No proxy of the environment stands between this machine and the cluster.
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# The programs, and Debian's package of each.
PROGRAMS = {"redis": "redis-server", "nats": "nats-server", "haproxy": "haproxy", "nginx": "nginx", "ip": "iproute2", "setpriv": "util-linux"}


class Cluster:
    def __init__(self, name):
        self.name, self.folder = name, RUNS / name

    @classmethod
    def there(cls, name):
        """One that is up."""
        cluster = cls(name)
        if not (cluster.folder / "cluster.json").exists():
            raise Trouble(f"there is no cluster `{name}`: start one with `deploy/local up`")
        cluster.settings = json.loads((cluster.folder / "cluster.json").read_text())
        cluster.network = Network(name, cluster.settings["network"])
        return cluster

    @property
    def nodes(self):
        return [f"node-{number}" for number in range(1, self.settings["nodes"] + 1)]

    def url(self, part, port=proxy.PORT):
        return f"http://{self.network.address(part)}:{port}"

    def bus_url(self):
        bus = self.settings["bus"]
        return f"{bus}://{self.network.address('bus')}:{ {'redis': 6379, 'nats': 4222}[bus] }"

    def up(self, **settings):
        """Starts everything, one thing after the other; `settings` say what."""
        check_programs(settings)
        settings["broker"] = settings["broker"] or build_broker()
        self.claim(settings)
        with lock():
            settings["network"] = free_network()
            self.network = Network(self.name, settings["network"])
            self.network.build(["bus", "proxy", *(["shop"] if settings["example"] else []), *self.nodes])
        (self.folder / "cluster.json").write_text(json.dumps(settings))
        self.start_bus()
        for node in self.nodes:
            self.start_node(node)
        for node in self.nodes:
            self.wait_for_node(node)
        self.wait_for_ring()
        self.start_proxy()
        if settings["example"]:
            self.start_example()

    def claim(self, settings):
        """Takes the name: two who start at once do not both get it."""
        RUNS.mkdir(exist_ok=True)
        try:
            self.folder.mkdir()
        except FileExistsError:
            raise Trouble(f"there is a cluster `{self.name}` already: `deploy/local down`, or take another --name") from None
        self.settings = settings
        # Whoever runs the programs writes here, and nobody else looks around; NGINX has workers with fewer rights yet.
        os.chown(self.folder, *caller())
        self.folder.chmod(0o711)

    def down(self):
        """Takes away what there is of it; it is no mistake when there is nothing, or half of it."""
        Network(self.name, None).remove()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start_bus(self):
        address = self.network.address("bus")
        command = {
            "redis": ["redis-server", "--bind", address, "--protected-mode", "no", "--save", "", "--appendonly", "no", "--dir", self.folder],
            "nats": ["nats-server", "--addr", address],
        }[self.settings["bus"]]
        self.start("bus", command)

    def start_node(self, node):
        address = self.network.address(node)
        own = {
            "CLARION_NODE": node,
            "CLARION_LISTEN": f"{address}:8000",
            "CLARION_ADMIN_LISTEN": f"{address}:8001",
            "CLARION_ADVERTISE": f"{address}:8000",
            "CLARION_BUS": self.bus_url(),
            # Only this machine reaches the cluster.
            "CLARION_INSECURE": "true",
            "CLARION_LOG_FORMAT": "json",
        }
        if self.settings["example"]:
            # Its pages come from another address than the nodes'.
            own["CLARION_AUTH_ORIGINS"] = f"{self.url('shop', DASHBOARD)},{self.url('proxy')}"
        self.start(node, [self.settings["broker"]], {**own, **self.settings["env"]})

    def wait_for_node(self, node):
        self.wait(f"{node} is ready", [node, "bus"], lambda: not self.unready(node))

    def wait_for_ring(self):
        """All nodes that run count each other."""
        live = [node for node in self.nodes if self.network.pids(node) and self.network.state(node) in ("up", "slow")]
        self.wait("the nodes know each other", live, lambda: all(self.metric(node, "clarion_ring_members") >= len(live) for node in live))

    def start_proxy(self):
        servers = [(node, self.network.address(node)) for node in self.nodes]
        kind, hashes = self.settings["proxy"], self.settings["route"] == "hash"
        text = proxy.haproxy(servers, hashes) if kind == "haproxy" else proxy.nginx(servers, hashes, self.folder)
        file = self.folder / f"{kind}.conf"
        file.write_text(text)
        file.chmod(0o644)
        # What NGINX's keep-alives go by: a node that is cut off is noticed within seconds.
        for key, value in (("time", 5), ("intvl", 2), ("probes", 3)):
            setting = Path(f"/proc/sys/net/ipv4/tcp_keepalive_{key}")
            self.network.inside("proxy", lambda setting=setting, value=value: setting.write_text(str(value)))
        command = ["haproxy", "-db", "-f", file] if kind == "haproxy" else ["nginx", "-p", self.folder, "-c", file]
        self.start("proxy", command)
        self.wait("the proxy answers", ["proxy"], lambda: ask(self.url("proxy"))[0] == 200)

    def start_example(self):
        """The example beside the cluster; its pages connect to the proxy, its services to the bus."""
        folder = self.folder / "shop"
        folder.mkdir()
        os.chown(folder, *caller())
        paths = filter(None, [os.environ.get("PYTHONPATH"), str(ROOT / "target/python")])
        packages = {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(folder)}
        module = self.settings["bus"]
        probe = [*rights(), sys.executable, "-c", f"import {module}"]
        if subprocess.run(probe, env=self.environment(packages), capture_output=True, check=False).returncode:
            raise Trouble("the example needs packages: ./test tools, or pip install -r examples/orders/requirements.txt")
        script = ROOT / f"examples/{self.settings['example']}/run"
        own = ["--bus", self.bus_url(), "--prefix", "clarion", "--push", self.url("proxy"), "--host", self.network.address("shop")]
        self.start("shop", [sys.executable, "-u", script, *own, "--data", folder, "--rate", self.settings["rate"]], packages)
        self.wait("the dashboard answers", ["shop"], lambda: ask(self.url("shop", DASHBOARD))[0] == 200)

    def environment(self, variables):
        """What a program gets: nothing of a broker's settings but what is said here."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CLARION_")}
        # Debian keeps servers in sbin.
        return {**clean, "HOME": home(), "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin", **variables}

    def start(self, part, command, variables=None):
        """Starts a program on a machine; it stays when we end."""

        def many_files():
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(65536, hard), hard))

        command = ["ip", "netns", "exec", self.network.namespace(part), *rights(), *map(str, command)]
        with self.log(part).open("ab") as log:
            subprocess.Popen(
                command, cwd=self.folder, env=self.environment(variables or {}), preexec_fn=many_files,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )

    def log(self, part):
        return self.folder / f"{part}.log"

    def wait(self, what, parts, check):
        """Asks until it is so; these machines' programs must go on running meanwhile."""
        begun = time.monotonic()
        while not check():
            late = time.monotonic() - begun
            dead = [part for part in parts if late > 1 and not self.network.pids(part)]
            if dead or late > PATIENCE:
                why = f"the program of {dead[0]} has ended" if dead else f"not within {PATIENCE} s"
                raise Trouble(f"{what}: {why}\n" + self.last_lines(dead or parts))
            time.sleep(0.05)

    def last_lines(self, parts):
        texts = [self.log(part).read_text(errors="replace").splitlines()[-10:] for part in parts if self.log(part).exists()]
        return "\n".join(line for lines in texts for line in lines)

    def unready(self, node):
        """Why a node is not ready, as it says itself, also when nobody else reaches it; nothing when it is ready."""
        status, body = self.network.inside(node, lambda: ask(self.url(node, 8001) + "/health/ready"))
        if status == 200:
            return []
        return json.loads(body)["reasons"] if status == 503 else ["it does not answer"]

    def metric(self, node, name):
        """The sum of a metric over all of its labels; 0 where there is none."""
        status, body = self.network.inside(node, lambda: ask(self.url(node, 8001) + "/metrics"))
        lines = body.splitlines() if status == 200 else []
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split(" ")[0].split("{")[0] == name)

    def kill(self, node):
        send(self.network.pids(node), signal.SIGKILL)
        self.wait(f"{node} has ended", [], lambda: not self.network.pids(node))

    def heal(self, node):
        """Undoes all that was done to a node; starts it when it is dead."""
        self.network.heal(node)
        if not self.network.pids(node):
            self.start_node(node)
        self.wait_for_node(node)
        self.wait_for_ring()

    def roll(self, node):
        """Lets a node leave in order and starts it again. Says how long that took."""
        begun = time.monotonic()
        send(self.network.pids(node), signal.SIGTERM)
        self.wait(f"{node} has left", [], lambda: not self.network.pids(node))
        left = time.monotonic() - begun
        self.start_node(node)
        self.wait_for_node(node)
        self.wait_for_ring()
        return f"{node}: left in {left:.1f} s, back and ready {time.monotonic() - begun - left:.1f} s later"

    def status(self):
        """All that is to be seen from outside."""
        return {
            "name": self.name,
            **{key: self.settings[key] for key in ("bus", "proxy", "route", "example")},
            "url": self.url("proxy"),
            "bus_url": self.bus_url(),
            "dashboard": self.url("shop", DASHBOARD) + "/" if self.settings["example"] else None,
            "logs": str(self.folder),
            "running": {part: bool(self.network.pids(part)) for part in self.network.parts() if part in ("bus", "proxy", "shop")},
            "nodes": [self.node_status(node) for node in self.nodes],
        }

    def node_status(self, node):
        pids = self.network.pids(node)
        return {
            "node": node,
            "url": self.url(node),
            "admin": self.url(node, 8001),
            "pid": pids[0] if pids else None,
            "link": self.network.state(node),
            "unready": self.unready(node) if pids else ["it is dead"],
            "connections": int(self.metric(node, "clarion_connections")),
            "ring_members": int(self.metric(node, "clarion_ring_members")),
        }


def ask(url):
    """An answer's status and text; status 0 when there is none."""
    try:
        with OPENER.open(url, timeout=2) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def caller():
    """Who is behind `sudo`: the programs run with that user's rights. Root's own start runs them as root."""
    return int(os.environ.get("SUDO_UID", 0)), int(os.environ.get("SUDO_GID", 0))


def rights():
    """What a command begins with that runs with the caller's rights."""
    user, group = caller()
    return ["setpriv", f"--reuid={user}", f"--regid={group}", "--init-groups"] if user else []


def home():
    return pwd.getpwuid(caller()[0]).pw_dir


@contextmanager
def lock():
    """One after the other, since each looks for a network that nobody has."""
    with (RUNS / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_programs(settings):
    """Says at once what is missing."""
    if settings["nodes"] > MOST_NODES:
        raise Trouble(f"--nodes is at most {MOST_NODES}")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    for what in (settings["bus"], settings["proxy"], "ip", "setpriv"):
        program = {"redis": "redis-server", "nats": "nats-server"}.get(what, what)
        if not shutil.which(program):
            raise Trouble(f"{program} is missing: apt install {PROGRAMS[what]}")
    try:
        ip("netns", "list")
    except Trouble as trouble:
        raise Trouble(f"this machine has no network namespaces ({trouble})") from None


def build_broker():
    """The broker of this repository, built by whoever called: cargo is hardly ever root's."""
    environment = {**os.environ, "HOME": home(), "PATH": f"{os.environ.get('PATH', '')}:{home()}/.cargo/bin"}
    if not shutil.which("cargo", path=environment["PATH"]):
        raise Trouble("cargo is missing: install rustup (https://rustup.rs), or give a broker by --broker")
    command = [*rights(), "cargo", "build", "--quiet", "--release", "--locked", "-p", "clarion-broker"]
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
        raise Trouble("the broker could not be built")
    return str(ROOT / "target/release/clarion-broker")
