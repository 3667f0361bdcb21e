"""The load on a cluster from within: the Job's own arguments, run here by a coordinator and workers of their own."""

import os
import re
import subprocess

import pytest
from conftest import BROKER, on_free_port
from rendered import clean_environment, one, overlay, pods

LOADTEST = os.environ.get("CLARION_LOADTEST", BROKER.with_name("clarion-loadtest"))
SECRET = "the secret of this test's workers"
CONNECTIONS = 60


@pytest.fixture(params=["redis", "nats"])
def bus(request):
    return request.param


def container(documents, kind):
    (container,) = pods(documents)[kind, "clarion-loadtest"]["spec"]["containers"]
    assert container["command"] == ["/usr/local/bin/clarion-loadtest"]
    return container


def settings(documents):
    """What the ConfigMaps of the load say: its variables, and its profile."""
    variables, profile = (one(documents, "ConfigMap", f"clarion-loadtest{part}")["data"] for part in ("", "-profile"))
    return variables, profile["public.toml"]


def test_the_job_names_every_worker_and_the_service_that_is_there(bus):
    documents = overlay(f"{bus}-loadtest")
    arguments = container(documents, "Job")["args"]
    workers = one(documents, "StatefulSet", "clarion-loadtest")["spec"]
    service = one(documents, "Service", workers["serviceName"])
    port = service["spec"]["ports"][0]["port"]
    named = [argument.split("=")[1] for argument in arguments if argument.startswith("--worker-at=")]
    assert named == [f"clarion-loadtest-{number}.{workers['serviceName']}:{port}" for number in range(workers["replicas"])]
    assert container(documents, "StatefulSet")["args"][:3] == ["worker", "--listen", f"0.0.0.0:{port}"]

    brokers = one(documents, "Service")
    assert f"--target={brokers['metadata']['name']}:{brokers['spec']['ports'][0]['port']}" in arguments
    variables, _ = settings(documents)
    assert variables["PUBLISH_BY"] == bus
    host, port = variables["PUBLISH_TO"].split(":")
    assert one(documents, "Service", host)["spec"]["ports"][0]["port"] == int(port)
    # Who waits for workers (69) tries again, and whoever has a result does not.
    (rule,) = one(documents, "Job", "clarion-loadtest")["spec"]["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"] == {"containerName": "coordinator", "operator": "NotIn", "values": [69]}


def test_the_bus_lets_the_load_in(bus):
    documents = overlay(f"{bus}-loadtest")
    (rule,) = one(documents, "NetworkPolicy", f"clarion-{bus}")["spec"]["ingress"]
    wanted = [source["podSelector"]["matchLabels"] for source in rule["from"]]
    for kind in ("Job", "StatefulSet"):
        labels = pods(documents)[kind, "clarion-loadtest"]["metadata"]["labels"]
        assert any(selector.items() <= labels.items() for selector in wanted), kind


def test_the_jobs_own_arguments_measure_a_broker(bus, request, start, broker, tmp_path):
    documents = overlay(f"{bus}-loadtest")
    url = request.getfixturevalue(f"{bus}_url")
    config = tmp_path / "clarion.toml"
    config.write_text(one(documents, "ConfigMap")["data"]["clarion.toml"])
    node = broker("--config", config, "--bus", url, CLARION_JWT_SECRET="a secret that no subscriber here has", CLARION_API_KEYS="key")
    variables, profile = settings(documents)
    (tmp_path / "public.toml").write_text(profile)

    environment = clean_environment(LOADTEST_SECRET=SECRET)
    command, flag, address, *rest = container(documents, "StatefulSet")["args"]

    def worker(port):
        process = start(LOADTEST, command, flag, f"127.0.0.1:{port}", *rest, env=environment)
        assert process.line("listens", lambda line: "listening" in line)
        return f"127.0.0.1:{port}"

    workers = iter([on_free_port(worker) for _ in range(3)])

    def here(argument):
        """The same on this machine, and small."""
        argument = re.sub(r"\$\((\w+)\)", lambda name: variables[name[1]], argument)
        name, _, _ = argument.partition("=")
        replaced = {
            "--target": lambda: node.address,
            "--profile": lambda: tmp_path / "public.toml",
            "--publish-to": lambda: url.split("//")[1],
            "--worker-at": lambda: next(workers),
            "--connections": lambda: CONNECTIONS,
            "--duration": lambda: "1s",
        }
        return f"{name}={replaced[name]()}" if name in replaced else argument

    job = [LOADTEST, *map(here, container(documents, "Job")["args"]), "--expect", "delivered>=60"]
    done = subprocess.run(job, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = subprocess.run(job, env={**environment, "LOADTEST_SECRET": "wrong"}, capture_output=True, text=True, check=False, timeout=120)
    assert wrong.returncode == 69, wrong.stderr
