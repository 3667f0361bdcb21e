"""Rules, alerts and the dashboard: Prometheus takes them, and they ask only for what a running node exports."""

import asyncio
import json
import re
import subprocess
import urllib.request

import websockets
import yaml
from conftest import PATIENCE, ROOT, eventually, make_certificate, token
from rendered import DEPLOY

MONITORING = DEPLOY / "k8s/components/monitoring"
DEVELOPMENT = "development"
# What Prometheus itself adds.
TARGET_LABELS = {"job", "instance", "namespace", "pod"}


def rules():
    return [
        rule
        for group in yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())["groups"]
        for rule in group["rules"]
    ]


def alerts():
    return [rule for rule in rules() if "alert" in rule]


def dashboard():
    return json.loads((MONITORING / "dashboard.json").read_text())


def dashboard_queries():
    panels = [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]
    return panels + [annotation["expr"] for annotation in dashboard()["annotations"]["list"]]


def promtool(*arguments):
    done = subprocess.run(["promtool", *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_prometheus_takes_the_rules():
    assert f"{len(rules())} rules found" in promtool("check", "rules", "rules.yaml")
    promtool("check", "config", "prometheus.yaml")


def test_each_alert_comes_when_it_should_and_only_then():
    promtool("test", "rules", "rules.test.yaml")
    tests = yaml.safe_load((DEPLOY / "prometheus/rules.test.yaml").read_text())["tests"]
    judged = [case for test in tests for case in test["alert_rule_test"]]
    for alert in alerts():
        own = [bool(case["exp_alerts"]) for case in judged if case["alertname"] == alert["alert"]]
        assert set(own) == {True, False}, f"{alert['alert']} needs a test in which it comes, and one in which it does not"


def test_the_operator_gets_the_same_rules():
    operators = yaml.safe_load((MONITORING / "rules.yaml").read_text())
    assert operators["spec"] == yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())


def test_each_alert_has_its_paragraph():
    text = (ROOT / "docs/alerts.md").read_text()
    paragraphs = dict(re.findall(r"(?m)^## (\w+)\n\n((?:.+\n)+)", text))
    assert list(paragraphs) == [alert["alert"] for alert in alerts()]
    for alert in alerts():
        assert alert["annotations"]["runbook"] == f"docs/alerts.md#{alert['alert'].lower()}"
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert len(paragraphs[alert["alert"]].split()) > 25, f"{alert['alert']}: what it means and what to do"


def test_prometheus_takes_the_queries_of_the_dashboard(tmp_path):
    queries = [re.sub(r"\$__rate_interval", "5m", query).replace("$namespace", ".*") for query in dashboard_queries()]
    own = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": own}]}))
    promtool("check", "rules", file)


def test_the_dashboard_is_laid_out():
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}" and panel["targets"]


def exported(node):
    """The labels of each series that a node exports, by name."""
    with urllib.request.urlopen(node.admin + "/metrics", timeout=PATIENCE) as answer:
        text = answer.read().decode()
    series = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, labels = re.match(r"([a-z_]+)(?:\{(.*)\})? ", line).groups()
            series.setdefault(name, {}).update((key, None) for key in re.findall(r"(\w+)=", labels or ""))
    return {name: set(labels) for name, labels in series.items()}


async def refused(node, path, **claims):
    """A handshake that is answered with this status; None when it is accepted."""
    url = f"ws://{node.address}{path}?token={token(DEVELOPMENT, **claims) if claims else 'bad'}"
    try:
        socket = await websockets.connect(url, open_timeout=PATIENCE)
    except websockets.InvalidStatus as answer:
        return answer.response.status_code
    await socket.close()
    return None


async def live(nodes):
    """Lets happen what only then has a series: refusals, publications, and a user away from home."""
    assert nodes[0].post("/news", b"hello")[0] == 200
    assert await refused(nodes[0], "/me") == 401
    for node in nodes:
        eventually("both nodes are in the ring", lambda node=node: ring_members(node) == 2)
    for user in range(50):
        url = f"ws://{nodes[0].address}/me?token={token(DEVELOPMENT, sub=user)}"
        async with websockets.connect(url, open_timeout=PATIENCE):
            assert await refused(nodes[0], "/me", sub=user) == 429
        if "clarion_strays_handled_total" in exported(nodes[0]):
            return
    raise AssertionError("fifty users in turn are all at home at the same one of two nodes")


def ring_members(node):
    with urllib.request.urlopen(node.admin + "/metrics", timeout=PATIENCE) as answer:
        return int(re.search(r"(?m)^clarion_ring_members (\d+)$", answer.read().decode())[1])


def asked_for(query):
    """The names in a query, each with the labels by which it selects."""
    found = re.findall(r"\b((?:clarion|process)_[a-z_]+|up)\b(?:\{([^}]*)\})?", query)
    return [(name, set(re.findall(r"(\w+)[=!]~?\"", labels))) for name, labels in found]


def test_all_that_is_asked_for_is_exported(redis_url, broker, tmp_path):
    nodes = [broker("--bus", redis_url, CLARION_LIMITS_PER_USER="1") for _ in range(2)]
    asyncio.run(live(nodes))
    certificate, key = make_certificate(tmp_path)
    series = exported(broker(CLARION_TLS_CERTIFICATE=certificate, CLARION_TLS_KEY=key)) | exported(nodes[0])
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    labels = {label for own in series.values() for label in own} | TARGET_LABELS

    queries = [rule["expr"] for rule in rules()] + dashboard_queries()
    queries += [variable["query"].split("(")[1].split(",")[0] for variable in dashboard()["templating"]["list"] if variable["type"] == "query"]
    queries += re.findall(r"metricsQuery: (.*)", (DEPLOY / "prometheus/adapter.yaml").read_text())
    for query in queries:
        names = asked_for(query)
        assert names or any(name in query for name in recorded), query
        for name, selected in names:
            assert name == "up" or name in series, f"no node exports {name}: {query}"
            assert selected <= series.get(name, set()) | TARGET_LABELS, f"{name} has no {selected}: {query}"
        for name in re.findall(r"clarion:[a-z_0-9:]+", query):
            assert name in recorded, query
        for grouped in re.findall(r"\b(?:by|on) \(([^)<]*)\)", query):
            assert set(re.split(r",\s*", grouped)) <= labels, query

    exported_bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in series} | set(series)
    for doc in sorted((ROOT / "docs").glob("*.md")):
        for name, named in re.findall(r"`(clarion_[a-z_]+)(?:\{([a-z_,]+)\})?", doc.read_text()):
            assert name in exported_bases, f"{doc.name} names {name}, which no node exports"
            assert set(filter(None, named.split(","))) <= series.get(name, set()), f"{doc.name}: labels of {name}"
