"""What a cluster promises, on `deploy/local`: three nodes with networks of their own behind a real proxy and a real bus.

Figures that are no promise, as the time until a cut is noticed, are printed: `pytest -s` shows them.
"""

import asyncio
import os
import signal
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import websockets
from conftest import BROKER, PATIENCE, eventually, token
from on_local import LOCAL, Cluster, local, needs_namespaces, post, publisher, publishing, subscribers, until

pytestmark = needs_namespaces


@pytest.fixture(scope="module")
def clusters():
    """One on each bus."""
    with ThreadPoolExecutor() as pool:
        started = [pool.submit(Cluster, "--bus", bus) for bus in ("redis", "nats")]
    yield [one.result() for one in started]
    for one in started:
        one.result().run("down")


def on_each(clusters, run):
    """Runs a test on all of them at the same time: most of it is waiting."""

    async def one(cluster):
        try:
            await run(cluster)
        except BaseException as error:
            error.add_note(f"on {cluster.bus}")
            raise

    async def everywhere():
        async with asyncio.timeout(10 * PATIENCE):
            await asyncio.gather(*map(one, clusters))

    asyncio.run(everywhere())


def say(cluster, text):
    print(f"\n[{cluster.bus}] {text}")


def test_every_nodes_subscribers_get_what_is_published(clusters):
    async def run(cluster):
        async with subscribers(cluster, 12) as all_of_them, publisher(cluster) as publish:
            assert {(one.node, one.transport) for one in all_of_them} >= {(node, "websocket") for node in cluster.nodes}
            for number in range(1, 101):
                await publish("news", number)
            await until("all get all", lambda: all(one.last == 100 for one in all_of_them))
            assert all(one.each() == [list(range(1, 101))] for one in all_of_them)

    on_each(clusters, run)


def test_the_proxy_keeps_no_message_back(clusters):
    async def run(cluster):
        async with subscribers(cluster, 3, transports=["events"]) as streams, publisher(cluster) as publish:
            took = []
            for number in range(1, 21):
                begun = time.monotonic()
                await publish("news", number)
                await until("all hear", lambda number=number: all(one.last == number for one in streams))
                took += [one.heard[0][-1][0] - begun for one in streams]
            say(cluster, f"an event through the proxy: {1000 * statistics.median(took):.0f} ms (median), at least {1000 * min(took):.0f} ms")
            # HAProxy leaves the end of what it sends to the kernel, who waits 200 ms for more, unless it is told not to.
            assert min(took) < 0.19

    on_each(clusters, run)


def test_a_node_that_is_cut_off_is_left_and_taken_back(clusters):
    async def run(cluster):
        async with subscribers(cluster, 6) as all_of_them, publisher(cluster) as publish:
            lost = [one for one in all_of_them if one.node == "node-2"]
            others = [one for one in all_of_them if one.node != "node-2"]
            assert len(lost) == 2
            async with publishing(lambda number: publish("news", number), 50) as going:
                await until("all hear", lambda: all(one.numbers for one in all_of_them))
                cut = time.monotonic()
                await asyncio.to_thread(cluster.run, "cut", "node-2")
                await until("its readiness is red", lambda: cluster.unready("node-2"))
                red = time.monotonic() - cut
                await until("its clients are told", lambda: all(one.ended for one in lost))
                told = max(one.ended[0] for one in lost) - cut
                await until("they hear again", lambda: all(len(one.heard) > 1 and one.heard[-1] for one in lost))
                # Meanwhile nobody else has lost anything.
                assert all(len(one.heard) == 1 for one in others)

                healed = time.monotonic()
                await asyncio.to_thread(cluster.run, "heal", "node-2")
                say(cluster, f"cut off: red after {red:.1f} s, clients told after {told:.1f} s, back {time.monotonic() - healed:.1f} s after heal")
                await asyncio.to_thread(cluster.taken_by_the_proxy, "node-2")
                async with subscribers(cluster, 3, "later") as newcomers:
                    back = [one for one in newcomers if one.node == "node-2"]
                    assert back, "the proxy gives it clients again"
                    for number in (1, 2):
                        await publish("later", number)
                    await until("it delivers again", lambda: all(one.numbers == [1, 2] for one in back))
                last = going.sent
                await until("all are up to date", lambda: all(one.last >= last for one in all_of_them))
            assert all(one.holes() == 0 and one.repeated() == 0 for one in all_of_them)
            assert all(one.missed(1, last) < last for one in lost)

    on_each(clusters, run)


def test_a_node_without_the_bus_keeps_its_clients_and_gets_no_new_ones(clusters):
    async def run(cluster):
        async with subscribers(cluster, 3, transports=["websocket"]) as all_of_them, publisher(cluster) as publish:
            (alone,) = [one for one in all_of_them if one.node == "node-3"]
            await publish("news", 1)
            await until("all hear", lambda: all(one.numbers == [1] for one in all_of_them))
            cut = time.monotonic()
            await asyncio.to_thread(cluster.run, "cut", "node-3", "--from", "bus")
            reasons = await until("its readiness is red", lambda: cluster.unready("node-3"))
            red = time.monotonic() - cut
            assert any("bus" in reason for reason in reasons), reasons
            await publish("news", 2)
            await until("the others hear", lambda: all(one.last == 2 for one in all_of_them if one is not alone))
            # Whoever comes now is somewhere else, whether or not the proxy has noticed already.
            async with subscribers(cluster, 6, "later", ["websocket"]) as newcomers:
                assert "node-3" not in {one.node for one in newcomers}
            assert alone.connected and alone.numbers == [1], "at most once: what is published meanwhile is not for it"

            await asyncio.to_thread(cluster.run, "heal", "node-3")
            await publish("news", 3)
            await until("the same connection delivers again", lambda: alone.last == 3)
            assert len(alone.heard) == 1
            say(cluster, f"cut from the bus: red after {red:.1f} s")

    on_each(clusters, run)


def test_all_nodes_are_rolled_while_people_listen_and_publish(clusters):
    async def run(cluster):
        async with subscribers(cluster, 6) as all_of_them, publisher(cluster) as publish:
            by_http = lambda number: asyncio.to_thread(post, cluster, "other", number)
            begun = time.monotonic()
            async with publishing(lambda number: publish("news", number), 50) as going, publishing(by_http, 20) as posted:
                await until("all hear", lambda: all(one.numbers for one in all_of_them))
                await asyncio.to_thread(cluster.run, "roll")
                last = going.sent
                await until("all are up to date", lambda: all(one.last >= last for one in all_of_them))
            took = time.monotonic() - begun
            away = [one.missed(one.numbers[0], last) for one in all_of_them]
            say(
                cluster,
                f"rolled in {took:.1f} s: {len(posted.answers)} posts answered {sorted(set(posted.answers))}; of {last} messages "
                f"each subscriber missed {away} while away, {[len(one.heard) - 1 for one in all_of_them]} reconnects",
            )
            assert all(len(one.heard) > 1 for one in all_of_them), "each node was left once"
            # A plain namespace delivers at most once: what comes between two connections is gone, nothing else is.
            assert [one.holes() for one in all_of_them] == [0] * 6 and [one.repeated() for one in all_of_them] == [0] * 6
            assert all(missed < last / 2 for missed in away)
            # 503 says that it was surely not published; anything else but success would be a lie.
            assert set(posted.answers) <= {200, 503} and posted.answers.count(200) > 0.9 * len(posted.answers)

    on_each(clusters, run)


def test_a_slow_link_slows_nobody_else(clusters):
    delay, count = 0.8, 50

    async def run(cluster):
        async with subscribers(cluster, 6) as all_of_them, publisher(cluster) as publish:
            slow = [one for one in all_of_them if one.node == "node-1"]
            others = [one for one in all_of_them if one.node != "node-1"]
            await asyncio.to_thread(cluster.run, "slow", "node-1", "--delay", f"{int(delay * 1000)}ms")
            begun = time.monotonic()
            for number in range(1, count + 1):
                await publish("news", number)
            await until("all get all", lambda: all(one.last == count for one in all_of_them))
            late = {one: one.heard[0][0][0] - begun for one in slow}
            on_time = max(one.heard[0][-1][0] for one in others) - begun
            say(cluster, f"link slowed by {delay} s each way: {min(late.values()):.2f} s there, {on_time:.2f} s elsewhere")
            # To the node, and from there to the proxy.
            assert min(late.values()) >= 2 * delay
            assert on_time < min(late.values())
            assert all(one.holes() == 0 and len(one.heard) == 1 for one in all_of_them)
            await asyncio.to_thread(cluster.run, "heal", "node-1")

    on_each(clusters, run)


def test_a_users_home_moves_when_its_node_is_killed(clusters):
    user = 42

    async def run(cluster):
        home = await until("the user has a home", lambda: cluster.home(user))
        query = f"?token={token('development', sub=user)}"
        async with subscribers(cluster, 6, f"users/{user}{query}") as devices, publisher(cluster) as publish:
            await publish(f"users/{user}", 1)
            await until("all devices hear", lambda: all(one.last == 1 for one in devices))
            killed = time.monotonic()
            await asyncio.to_thread(cluster.run, "kill", home)
            moved = await until("its home has moved", lambda: (now := cluster.home(user)) != home and now)
            took = time.monotonic() - killed
            hit = [one for one in devices if one.node == home]
            await until("who was there has come back", lambda: all(one.connected and len(one.heard) == 2 for one in hit))
            back = max(one.ended[0] for one in hit) - killed
            await publish(f"users/{user}", 2)
            await until("all devices hear", lambda: all(one.last == 2 for one in devices))
            say(cluster, f"killed {home}: its clients knew after {back:.2f} s, home is {moved} after {took:.1f} s")
            await asyncio.to_thread(cluster.run, "heal")
            await until("the home comes back with its node", lambda: cluster.home(user) == home)

    on_each(clusters, run)


@pytest.mark.parametrize(("bus", "proxy"), [("nats", "haproxy"), ("redis", "nginx")])
def test_hashing_brings_a_user_to_one_node_that_need_not_be_home(bus, proxy):
    hashing = Cluster("--bus", bus, "--proxy", proxy, "--route", "hash")

    async def connect(user):
        jwt = token("development", sub=user)
        # HAProxy reads the token wherever it is; NGINX needs the hint.
        ways = [("/me", ["clarion.v1", f"bearer.{jwt}"]), (f"/me?token={jwt}", None), (f"/users/{user}?token={jwt}", None)]
        if proxy == "nginx":
            ways = [(f"{path}{'&' if '?' in path else '?'}user={user}", protocols) for path, protocols in ways]
        url = hashing.url.replace("http", "ws")
        return [await websockets.connect(url + path, subprotocols=protocols, open_timeout=PATIENCE) for path, protocols in ways]

    async def run():
        interests = lambda: sum(hashing.metric(node, "clarion_bus_interests") for node in hashing.nodes)
        own = interests()
        sockets, placed = [], {}
        for user in range(30):
            before = hashing.connections()
            sockets += await connect(user)
            gained = {node: now - before[node] for node, now in hashing.connections().items() if now > before[node]}
            assert list(gained.values()) == [3], f"user {user} is on {gained}"
            placed[user] = next(iter(gained))
        assert set(placed.values()) == set(hashing.nodes), "all nodes get some"
        # One for each user, whose devices share it, and each node's of `broadcast`.
        assert interests() - own == 30 + 3
        at_home = sum(hashing.metric(node, "clarion_at_home_total") for node in hashing.nodes)
        strays = sum(hashing.metric(node, "clarion_strays_total") for node in hashing.nodes)
        print(f"\n[{bus}, {proxy}] of {at_home + strays:.0f} connections {at_home:.0f} came to their home")
        assert at_home + strays == 90 and 0 < at_home < 90, "the proxy's hash is not the ring's"
        async with publisher(hashing) as publish:
            for user in range(30):
                await publish(f"users/{user}", user)
        heard = [await asyncio.wait_for(socket.recv(), PATIENCE) for socket in sockets]
        assert [int(text) for text in heard] == [user for user in range(30) for _ in range(3)]
        for socket in sockets:
            await socket.close()

    try:
        asyncio.run(run())
    finally:
        hashing.run("down")


def traces(name):
    """What is left of a cluster on this machine."""
    spaces = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
    links = subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout
    return [text for text in (spaces, links) if name in text] + [path for path in [f"/run/clarion-local/{name}"] if os.path.exists(path)]


def test_nothing_is_left_when_it_is_interrupted_at_any_moment():
    name = f"i{os.getpid()}"
    for moment in (f"clarion-{name}-switch", f"clarion-{name}-node-1", "nodes"):
        command = [LOCAL, "up", "--name", name, "--broker", BROKER]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        here = f"/run/netns/{moment}" if moment != "nodes" else f"/run/clarion-local/{name}/node-1.log"
        eventually("it has begun", lambda here=here: os.path.exists(here))
        child.send_signal(signal.SIGINT)
        if child.wait(PATIENCE) == 0:
            # The nodes are ready within some tenths of a second: it was up before it heard that it is not to be.
            assert moment == "nodes"
            assert local("down", "--name", name).returncode == 0
        assert traces(name) == []
    # A broken one is taken away as well, and what is not there is no mistake.
    subprocess.run(["ip", "netns", "add", f"clarion-{name}-bus"], check=True)
    for _ in range(2):
        assert local("down", "--name", name).returncode == 0
    assert traces(name) == []


def test_mistakes_are_told_with_what_helps(clusters):
    cluster = clusters[0]
    for arguments, says in [
        (["up", "--name", cluster.name, "--broker", BROKER], "already"),
        (["kill", "node-9", "--name", cluster.name], "there are node-1, node-2, node-3"),
        (["status", "--name", "nobody"], "deploy/local up"),
        (["slow", "node-1", "--delay", "5"], "like 200ms"),
        (["up", "--name", "a-b"], "small letters"),
    ]:
        done = local(*arguments)
        assert done.returncode != 0 and says in done.stderr, done.stderr
    # A broker that cannot start says why, and nothing stays.
    name = f"b{os.getpid()}"
    done = local("up", "--name", name, "--broker", BROKER, "-e", "CLARION_PIN=sideways")
    assert done.returncode != 0 and "sideways" in done.stderr and "has ended" in done.stderr
    assert traces(name) == []
    assert cluster.status()["nodes"][0]["unready"] == []


def test_without_root_it_says_so():
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "python3", "-c",
         f"import runpy, sys; sys.argv = ['local', 'up', '--broker', '/bin/true']; runpy.run_path({str(LOCAL)!r}, run_name='__main__')"],
        capture_output=True, text=True, check=False, cwd="/",
    )
    assert done.returncode != 0 and "sudo deploy/local" in done.stderr, done.stderr
