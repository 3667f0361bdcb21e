"""The proxies before the nodes: the ingresses' hashing by the very lines of their annotations, and that of compose."""

import asyncio
import http.server
import re
import signal
import subprocess
import threading
import urllib.request

import pytest
import websockets
from conftest import PATIENCE, eventually, on_free_port, token
from rendered import DEPLOY, one, overlay

NODES = 3
# How long a node may take to leave, in seconds: drain.deadline.
DRAIN = 30
USERS = range(40)


class Named(http.server.BaseHTTPRequestHandler):
    """Says which node it is."""

    def do_GET(self):
        body = self.server.name.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        """Keeps quiet."""


@pytest.fixture
def nodes():
    """The ports of servers that say which one they are."""
    servers = []
    for number in range(NODES):
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Named))
        servers[-1].name = f"node-{number}"
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
    yield [server.server_address[1] for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


def annotations(name):
    return one(overlay(name), "Ingress")["metadata"]["annotations"]


@pytest.fixture
def haproxy(start, nodes, tmp_path):
    snippet = annotations("edge-haproxy")["haproxy.org/backend-config-snippet"].splitlines()
    # The controller writes the algorithm that is its default before the snippet.
    backend = ["balance roundrobin", *snippet]
    backend += [f"server node-{number} 127.0.0.1:{port}" for number, port in enumerate(nodes)]

    def begin(port):
        file = tmp_path / "haproxy.cfg"
        timeouts = ["mode http", "timeout connect 5s", "timeout client 60s", "timeout server 60s"]
        parts = {
            "defaults": timeouts,
            "frontend clients": [f"bind 127.0.0.1:{port}", "default_backend clarion"],
            "backend clarion": backend,
        }
        file.write_text("".join(name + "\n" + "".join(f"    {line}\n" for line in lines) for name, lines in parts.items()))
        return proxy(start("haproxy", "-db", "-f", file), port)

    return on_free_port(begin)


@pytest.fixture
def nginx(start, nodes, tmp_path):
    servers = "".join(f"server 127.0.0.1:{port};" for port in nodes)
    method = annotations("edge-nginx")["nginx.org/lb-method"]

    def begin(port):
        temporary = "".join(
            f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        file = tmp_path / "nginx.conf"
        file.write_text(
            f"pid {tmp_path}/pid; error_log stderr; daemon off; master_process off; events {{}}\n"
            f"http {{ access_log off; {temporary} upstream clarion {{ {method}; {servers} }}\n"
            f"server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://clarion; }} }} }}\n"
        )
        return proxy(start("nginx", "-p", tmp_path, "-c", file), port)

    return on_free_port(begin)


def proxy(process, port):
    """Waits until it answers."""
    url = f"http://127.0.0.1:{port}"

    def answers():
        assert process.child.poll() is None, "\n".join(process.lines)
        return node_of(url, "/")

    eventually("the proxy answers", answers)
    return url


def node_of(url, path, **headers):
    """Which node a request comes to."""
    request = urllib.request.Request(url + path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.read().decode()


def each_way(user):
    """The ways in which a client of this user can come, and a publisher who pushes to him."""
    jwt = token("any secret", sub=user)
    # The same user by another token.
    other = token("any secret", sub=str(user), exp=1)
    return [
        ("/me", {"Authorization": f"Bearer {jwt}"}),
        ("/me", {"Sec_WebSocket_Protocol": f"clarion.v1, bearer.{jwt}"}),
        ("/news", {"Sec_WebSocket_Protocol": f"bearer.{other},clarion.v1"}),
        (f"/events?channel=a&token={jwt}", {}),
        (f"/me?token={other}", {}),
        (f"/users/{user}", {}),
        (f"/users/{user}", {"X_API_Key": "key"}),
        # Whoever claims to be at another node's is not believed.
        ("/me", {"Authorization": f"Bearer {jwt}", "X_Clarion_User": "7"}),
    ]


def test_haproxy_brings_a_user_to_one_node_however_he_comes(haproxy):
    homes = {}
    for user in USERS:
        came = {node_of(haproxy, path, **headers) for path, headers in each_way(user)}
        assert len(came) == 1, f"user {user}: {came}"
        homes[user] = came.pop()
    assert len(set(homes.values())) == NODES, "all nodes get some"


def test_haproxy_goes_round_with_those_it_does_not_know(haproxy):
    for path, headers in [("/news", {}), ("/me?token=none", {}), ("/me", {"Authorization": "Bearer a.b.c"})]:
        assert len({node_of(haproxy, path, **headers) for _ in range(3 * NODES)}) == NODES, path


def test_nginx_brings_a_user_to_one_node(nginx):
    homes = {user: {node_of(nginx, f"{path}?user={user}") for path in ("/me", "/news", "/users/7")} for user in USERS}
    assert all(len(came) == 1 for came in homes.values())
    assert len(set().union(*homes.values())) == NODES
    assert len({node_of(nginx, "/news") for _ in range(3 * NODES)}) == NODES, "without a user they go round"


def test_the_hint_for_nginx_means_nothing_to_the_broker(broker):
    node = broker()
    request = urllib.request.Request(f"{node.url}/events?channel=news&user=42", headers={"Accept": "text/event-stream"})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        assert answer.status == 200 and answer.headers["Content-Type"].startswith("text/event-stream")


def test_the_proxy_of_compose_is_well_formed():
    # It asks the network of containers for names, which is not here: names that are not found are no mistake.
    done = subprocess.run(["haproxy", "-c", "-f", DEPLOY / "compose/haproxy.cfg"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_proxy_of_compose_takes_turns_and_passes_over_a_node_that_leaves(redis_url, broker, start, tmp_path):
    brokers = [broker("--bus", redis_url) for _ in range(NODES)]

    def here(server):
        node = brokers[int(server[1]) - 1]
        return f"server broker-{server[1]} {node.address} port {node.admin.rsplit(':', 1)[1]}"

    text = (DEPLOY / "compose/haproxy.cfg").read_text()
    text = re.sub(r"server broker-(\d) broker-\d:8000", here, text)
    # The file descriptors of a test are fewer.
    text = text.replace("maxconn 4000", "maxconn 100").replace("check port 8001", "check").replace(" resolvers docker init-addr libc,none", "")

    def begin(port):
        file = tmp_path / "haproxy.cfg"
        file.write_text(text.replace("bind :8000", f"bind 127.0.0.1:{port}"))
        process = start("haproxy", "-db", "-f", file)
        eventually("the proxy answers", lambda: process.child.poll() is not None or node_of(f"http://127.0.0.1:{port}", "/"))
        assert process.child.poll() is None, "\n".join(process.lines)
        return f"127.0.0.1:{port}"

    address = on_free_port(begin)

    async def run():
        sockets = [await websockets.connect(f"ws://{address}/news", open_timeout=PATIENCE) for _ in range(2 * NODES)]
        shares = [connections(node) for node in brokers]
        assert sum(shares) == len(sockets) and min(shares) > 0, shares
        assert brokers[0].post("/news", b"hello")[0] == 200
        assert {await asyncio.wait_for(socket.recv(), PATIENCE) for socket in sockets} == {"hello"}

        brokers[1].process.child.send_signal(signal.SIGTERM)
        closed = [socket for socket in sockets if await ends(socket, brokers[1])]
        assert len(closed) == shares[1]
        again = [await websockets.connect(f"ws://{address}/news", open_timeout=PATIENCE) for _ in range(2 * NODES)]
        assert connections(brokers[0]) + connections(brokers[2]) == len(sockets) - len(closed) + len(again)
        for socket in [*sockets, *again]:
            await socket.close()

    asyncio.run(run())


def connections(node):
    """How many WebSockets a node has."""
    with urllib.request.urlopen(node.admin + "/metrics", timeout=PATIENCE) as answer:
        return int(re.search(r'clarion_connections{door="websocket"} (\d+)', answer.read().decode())[1])


async def ends(socket, leaving):
    """Whether this socket was one of the node that leaves, once that is gone."""
    async with asyncio.timeout(PATIENCE + DRAIN):
        while leaving.process.child.poll() is None:
            await asyncio.sleep(0.02)
    try:
        await asyncio.wait_for(await socket.ping(), PATIENCE)
        return False
    except websockets.ConnectionClosed as closed:
        assert closed.rcvd.code == 1012, closed
        return True
