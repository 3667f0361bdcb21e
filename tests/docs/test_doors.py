"""Each client of the doors chapter, run as it is printed: it must show what is published, also after its node died."""

import asyncio
import urllib.request

import pytest
import websockets
from conftest import BROKER, PATIENCE, Node, eventually, listening, on_free_port
from languages import command, environment, run

SECRET = "a secret of this test, and long enough"
KEY = "a key of this test"

RETURNING = ["doors/websocket.mjs", "doors/event_source.mjs", "doors/websocket.py", "doors/event_stream.py", "doors/tail.sh"]
SIGNED_IN = ["doors/event_source.mjs", "doors/websocket.py", "doors/event_stream.py", "doors/tail.sh"]


@pytest.fixture
def client(start):
    """Starts a snippet that listens; what it prints is in the list that comes back."""

    def client(snippet, **variables):
        return start(*command(snippet), env=environment(**variables)).lines

    return client


@pytest.fixture
def node_at(start):
    """Starts a node on a port; 0 is any."""

    def node_at(port, **variables):
        own = ["--listen", f"127.0.0.1:{port}", "--admin-listen", "127.0.0.1:0", "--log-format", "json"]
        record = (process := start(BROKER, *own, env=environment(**variables))).line("listens", listening)
        node = Node(process, record["listen"], record["admin"])
        eventually("the node is ready", node.is_ready)
        return node

    return node_at


def connections(node):
    with urllib.request.urlopen(node.admin + "/metrics", timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("clarion_connections{"))


def shows(node, lines, text, **headers):
    """Waits for the client, publishes once, and waits until the client has printed it."""
    eventually(f"the client is connected; it said {lines}", lambda: connections(node) == 1)
    assert node.post("/news", text.encode(), **headers)[0] == 200
    eventually(f"the client shows {text}", lambda: any(text in line for line in lines))


def test_curl_shows_events(broker, client):
    node = broker()
    lines = client("doors/curl.sh", CLARION_URL=node.url)
    shows(node, lines, "hello")
    assert "data: hello" in lines


@pytest.mark.parametrize("snippet", RETURNING)
def test_a_client_comes_back(snippet, node_at, client):
    first = on_free_port(node_at)
    lines = client(snippet, CLARION_URL=first.url)
    shows(first, lines, "before")
    first.process.kill()
    second = node_at(first.address.split(":")[1])
    shows(second, lines, "afterwards")


@pytest.mark.parametrize("snippet", SIGNED_IN)
def test_a_client_shows_its_token(snippet, broker, client, tmp_path):
    settings = tmp_path / "clarion.toml"
    settings.write_text('[[namespaces]]\nprefix = "news"\nsubscribe = "signed_in"\n')
    node = broker("--config", settings, CLARION_JWT_SECRET=SECRET, CLARION_API_KEYS=KEY)
    code, token = run("token/sign.py", CLARION_JWT_SECRET=SECRET)
    assert code == 0, token
    lines = client(snippet, CLARION_URL=node.url, CLARION_TOKEN=token.strip())
    shows(node, lines, "for those who are signed in", X_API_Key=KEY)


@pytest.mark.parametrize("snippet", ["token/sign.py", "token/sign.mjs"])
def test_a_signed_token_opens_a_users_own_channel(snippet, broker):
    node = broker(CLARION_JWT_SECRET=SECRET, CLARION_API_KEYS=KEY)
    code, token = run(snippet, CLARION_JWT_SECRET=SECRET)
    assert code == 0, token

    async def hear():
        protocols = ["clarion.v1", f"bearer.{token.strip()}"]
        async with websockets.connect(f"ws://{node.address}/me", subprotocols=protocols, open_timeout=PATIENCE) as socket:
            assert node.post("/users/42", b"paid", X_API_Key=KEY)[0] == 200
            assert await asyncio.wait_for(socket.recv(), PATIENCE) == "paid"

    asyncio.run(hear())
