"""Starts servers and the real broker for the Python tests, and stops them with the test."""

import base64
import hashlib
import hmac
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BROKER = Path(os.environ.get("CLARION_BROKER", ROOT / "target/debug/clarion-broker"))

# How long anything may take before a test gives up, in seconds.
PATIENCE = float(os.environ.get("CLARION_TEST_PATIENCE", "30"))


# What is in the environment of every process that these tests start, and of whatever that starts.
MARK = f"TESTS_OF={os.getpid()}"


def started_by_us():
    """The processes that the tests started and that still run, with their command lines; also those that lost their parent."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            # What has ended and only waits to be asked for its exit code has no environment any more.
            if MARK.encode() in (entry / "environ").read_bytes().split(b"\0") and int(entry.name) != os.getpid():
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            pass  # It has ended meanwhile, or is somebody else's.
    return found


@pytest.fixture(scope="session", autouse=True)
def nobody_stays():
    """Whatever the tests started has ended with them, and the children of that as well.

    SIGTERM, by which `timeout` ends all of this, is an interrupt, so that then, too, every test cleans up.
    """
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    name, value = MARK.split("=")
    os.environ[name] = value
    yield
    # A process that was just killed may take a moment to go.
    deadline = time.monotonic() + 5
    while (left := started_by_us()) and time.monotonic() < deadline:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, f"the tests left these running: {list(left.values())}"


def run_to_end(command, *, timeout, **options):
    """`subprocess.run` in a group of its own, of which nothing is left when it is over, failed or late."""
    with subprocess.Popen(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **options,
    ) as child:
        try:
            said, _ = child.communicate(timeout=timeout)
        finally:
            kill_group(child)
    return child.returncode, said


def kill_group(child):
    """Kills a process that leads a group, and whatever it has started: a shell does not pass on its own end."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # All of them have ended.


class Process:
    """A child process whose output is kept; killed with all that it started when the test is over."""

    def __init__(self, *command, env=None):
        self.name = Path(command[0]).name
        self.lines = []
        self.news = threading.Condition()
        self.child = subprocess.Popen(
            [str(part) for part in command],
            env=env,
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for line in self.child.stdout:
            with self.news:
                self.lines.append(line.rstrip("\n"))
                self.news.notify_all()
        with self.news:
            self.news.notify_all()

    def line(self, what, check):
        """Waits until `check` makes something of a line of the output."""
        deadline = time.monotonic() + PATIENCE
        seen = 0
        with self.news:
            while True:
                for line in self.lines[seen:]:
                    if found := check(line):
                        return found
                seen = len(self.lines)
                left = deadline - time.monotonic()
                if left <= 0 or (self.child.poll() is not None and not self.reader.is_alive()):
                    raise AssertionError(f"{self.name} {what}: no such line in\n" + "\n".join(self.lines))
                self.news.wait(min(left, 0.2))

    def kill(self):
        kill_group(self.child)
        self.child.wait()


@pytest.fixture
def start():
    """Starts a process that ends with the test."""
    started = []

    def start(*command, env=None):
        started.append(Process(*command, env=env))
        return started[-1]

    yield start
    for process in reversed(started):
        process.kill()


def free_port():
    """A port below the range of outgoing connections that nobody listens on now."""
    while True:
        port = random.randrange(10_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                pass


def on_free_port(begin):
    """Starts on a free port, and on another one when somebody was faster."""
    for attempt in range(20):
        try:
            return begin(free_port())
        except AssertionError as error:
            if attempt == 19 or "address already in use" not in str(error).lower():
                raise


def eventually(what, check):
    """Asks again and again until `check` gives something, and returns that."""
    deadline = time.monotonic() + PATIENCE
    last = None
    while time.monotonic() < deadline:
        try:
            if value := check():
                return value
        except (OSError, urllib.error.URLError) as error:
            last = error
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {PATIENCE} s") from last


@pytest.fixture
def redis_url(start, tmp_path):
    def begin(port):
        server = start("redis-server", "--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", tmp_path)
        server.line("is ready", lambda line: "Ready to accept connections" in line)
        return f"redis://127.0.0.1:{port}"

    return on_free_port(begin)


@pytest.fixture
def nats_url(start):
    def begin(port):
        server = start("nats-server", "--addr", "127.0.0.1", "--port", port)
        server.line("is ready", lambda line: "Server is ready" in line)
        return f"nats://127.0.0.1:{port}"

    return on_free_port(begin)


class Node:
    """A running broker."""

    def __init__(self, process, listen, admin):
        self.process = process
        self.address = listen
        self.url = f"http://{listen}"
        self.admin = f"http://{admin}"

    def post(self, path, body, content_type="text/plain", **headers):
        """Posts bytes or JSON; returns the status and the answer's JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": content_type, **{name.replace("_", "-"): value for name, value in headers.items()}}
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, json.loads(answer.read() or "null")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or "null")

    def is_ready(self):
        with urllib.request.urlopen(self.admin + "/health/ready", timeout=PATIENCE) as answer:
            return answer.status == 200


@pytest.fixture
def broker(start):
    """Starts a node with these arguments and variables, and waits until it is ready."""

    def broker(*args, **variables):
        env = {name: value for name, value in os.environ.items() if not name.startswith("CLARION_")}
        env.update({name: str(value) for name, value in variables.items()})
        own = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json"]
        process = start(BROKER, *own, *args, env=env)
        record = process.line("listens", listening)
        node = Node(process, record["listen"], record["admin"])
        eventually("the node is ready", node.is_ready)
        return node

    return broker


def make_certificate(folder):
    """A certificate for localhost that nobody vouches for, and its key: two files."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -days 30".split()
    subprocess.run([*make, "-out", certificate, "-keyout", key], check=True, stderr=subprocess.DEVNULL)
    return certificate, key


def listening(line):
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    fields = record.get("fields", record)
    return fields if fields.get("message") == "listening" else None


def token(secret, **claims):
    """An HS256 token by hand, so that no library is needed to see what is in it."""
    part = lambda value: base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=")
    signed = part({"alg": "HS256", "typ": "JWT"}) + b"." + part({"exp": int(time.time()) + 3600, **claims})
    signature = hmac.new(secret.encode(), signed, hashlib.sha256).digest()
    return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()
