"""A cluster by `deploy/local`, and clients that come to it through its proxy."""

import asyncio
import itertools
import json
import os
import random
import re
import subprocess
import time
import types
import urllib.error
import urllib.request
from contextlib import asynccontextmanager
from pathlib import Path

import nats
import pytest
import redis
import websockets
from conftest import BROKER, PATIENCE, ROOT, eventually

LOCAL = ROOT / "deploy/local"
CLI = BROKER.with_name("clarion")
# What a roll waits for the proxy to notice, who looks twice, a second apart; the default of 5 s would only take longer.
DRAIN_WAIT = 3
TRANSPORTS = ["websocket", "events"]


def impossible():
    """Why there can be no namespaces here."""
    if os.geteuid():
        return "network namespaces need root"
    name = f"clarion-probe-{os.getpid()}"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
    return f"this machine gives no network namespaces: {done.stderr}" if done.returncode else None


def local(*arguments, **options):
    """Runs deploy/local to its end; a roll takes three nodes' drains."""
    command = [LOCAL, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=6 * PATIENCE, **options)


def take_leftovers_away():
    """The clusters of tests that were killed and could not clean up."""
    for folder in Path("/run/clarion-local").glob("[te]*x*"):
        pid = re.fullmatch(r"[te](\d+)x\w", folder.name)
        if pid and not Path(f"/proc/{pid[1]}").exists():
            local("down", "--name", folder.name)


class Cluster:
    number = itertools.count()

    def __init__(self, *options):
        take_leftovers_away()
        self.name = f"t{os.getpid()}x{next(self.number)}"
        self.run("up", "--broker", BROKER, "-e", f"CLARION_DRAIN_WAIT={DRAIN_WAIT}s", *options)
        status = self.status()
        self.bus, self.url, self.bus_url, self.dashboard = (status[key] for key in ("bus", "url", "bus_url", "dashboard"))
        self.nodes = {node["node"]: node for node in status["nodes"]}

    def run(self, command, *arguments):
        done = local(command, "--name", self.name, *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self):
        return json.loads(self.run("status", "--json"))

    def unready(self, name):
        return next(node["unready"] for node in self.status()["nodes"] if node["node"] == name)

    def metric(self, node, name):
        """The sum of a metric over its labels, as Prometheus would read it."""
        with urllib.request.urlopen(self.nodes[node]["admin"] + "/metrics", timeout=PATIENCE) as answer:
            return sum(float(value) for value in re.findall(rf"(?m)^{name}(?:{{[^}}]*}})? (\S+)$", answer.read().decode()))

    def connections(self):
        return {node: int(self.metric(node, "clarion_connections")) for node in self.nodes}

    def came(self):
        """How many subscribers each node has had; a stream that nobody reads any more is noticed only when it is written to."""
        return {node: int(self.metric(node, "clarion_acquires_total")) for node in self.nodes}

    def home(self, user):
        done = subprocess.run([CLI, "home", "--via", self.bus_url, "--json", str(user)], capture_output=True, text=True, check=False)
        return json.loads(done.stdout)["node"] if done.returncode == 0 else None

    def taken_by_the_proxy(self, node):
        """Waits until the proxy gives newcomers to a node again."""

        def taken():
            before = self.came()[node]
            request = urllib.request.Request(self.url + "/probe", headers={"Accept": "text/event-stream"})
            with urllib.request.urlopen(request, timeout=PATIENCE):
                return self.came()[node] > before

        eventually(f"the proxy gives clients to {node}", taken)


@asynccontextmanager
async def publisher(cluster):
    """Publishes as any backend would: with a client of the bus."""
    if cluster.bus == "redis":
        client = redis.Redis.from_url(cluster.bus_url, socket_timeout=PATIENCE)
        yield lambda channel, text: asyncio.to_thread(client.publish, f"clarion:{channel}", text)
        client.close()
        return
    client = await nats.connect(cluster.bus_url)

    async def publish(channel, text):
        await client.publish(f"clarion.{channel.replace('/', '.')}", str(text).encode())
        await client.flush(PATIENCE)

    yield publish
    await client.close()


def post(cluster, channel, body):
    """Publishes by HTTP through the proxy; returns the status, 0 when there was none."""
    request = urllib.request.Request(f"{cluster.url}/{channel}", data=str(body).encode(), headers={"Content-Type": "text/plain"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


class Subscriber:
    """Listens through the proxy and comes back when its connection ends. `heard` has a list of numbers and their times
    for each connection that it had."""

    def __init__(self, cluster, channel, transport="websocket", query=""):
        self.url = f"{cluster.url}/{channel}{query}"
        self.transport, self.heard, self.connected, self.ended, self.node = transport, [], False, [], None

    async def run(self):
        while True:
            try:
                await getattr(self, self.transport)()
                self.ended.append(time.monotonic())
            except (OSError, EOFError, TimeoutError, websockets.WebSocketException):
                pass  # Refused, or cut off: the next attempt tells.
            self.connected = False
            await asyncio.sleep(random.uniform(0, 0.1))

    def open(self):
        self.heard.append([])
        self.connected = True

    def hear(self, text):
        self.heard[-1].append((time.monotonic(), int(text)))

    async def websocket(self):
        # Broker and proxy are to find out who is gone, not this library.
        async with websockets.connect(self.url.replace("http", "ws"), open_timeout=PATIENCE, ping_interval=None, close_timeout=1) as socket:
            self.open()
            try:
                async for message in socket:
                    self.hear(message)
            except websockets.ConnectionClosed:
                pass

    async def events(self):
        host, port = self.url.split("/")[2].split(":")
        reader, writer = await asyncio.open_connection(host, port)
        try:
            path = "/" + self.url.split("/", 3)[3]
            writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n".encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
            if not head.startswith(b"HTTP/1.1 200"):
                raise EOFError
            self.open()
            while line := await reader.readline():
                if line.startswith(b"data:"):
                    self.hear(line[5:])
                if line.strip() == b"0":
                    return
        finally:
            writer.close()

    @property
    def numbers(self):
        return [number for connection in self.heard for _, number in connection]

    @property
    def last(self):
        return self.numbers[-1] if self.numbers else None

    def holes(self):
        """What is missing within a connection: between the first and the last number that came by it."""
        return sum(last - first + 1 - len(numbers) for numbers in self.each() for first, last in [(numbers[0], numbers[-1])])

    def missed(self, first, last):
        return len(set(range(first, last + 1)) - set(self.numbers))

    def repeated(self):
        return len(self.numbers) - len(set(self.numbers))

    def each(self):
        return [[number for _, number in connection] for connection in self.heard if connection]


@asynccontextmanager
async def subscribers(cluster, count, channel="news", transports=TRANSPORTS):
    """So many subscribers, one after the other and by each transport in turn; each knows which node it came to."""
    own = [Subscriber(cluster, channel, transport) for transport in itertools.islice(itertools.cycle(transports), count)]
    tasks = []
    try:
        for one in own:
            before = cluster.came()
            tasks.append(asyncio.create_task(one.run()))
            await until("a subscriber is there", lambda one=one: one.connected)
            (one.node,) = [node for node, now in cluster.came().items() if now > before[node]]
        yield own
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def publishing(send, rate):
    """Publishes numbers at a rate, until the block ends. What it gives has `sent`, the last number, and `answers`."""

    going = types.SimpleNamespace(sent=0, answers=[])
    over = asyncio.Event()

    async def publish():
        # Asked to end, never cancelled: nats-py takes a cancellation for its own while it queues a message, and the loop would
        # go on for ever.
        while not over.is_set():
            going.answers.append(await send(going.sent + 1))
            going.sent += 1
            await asyncio.sleep(1 / rate)

    task = asyncio.create_task(publish())
    try:
        yield going
    finally:
        over.set()
        await task


async def until(what, check):
    """Asks again and again until `check` gives something, and returns that, while other tasks go on."""
    deadline = time.monotonic() + PATIENCE
    while not (found := await asyncio.to_thread(check)):
        assert time.monotonic() < deadline, f"{what}: not within {PATIENCE} s"
        await asyncio.sleep(0.02)
    return found


needs_namespaces = pytest.mark.skipif(impossible() is not None, reason=str(impossible()))
