"""What is applied to a cluster: it is valid, it agrees with the broker, and it gives no more rights than needed."""

import re

import kubernetes_validate
import pytest
import yaml
from conftest import on_free_port
from rendered import DEPLOY, OVERLAYS, broker_container, configuration, one, overlay, pods, render, seconds

# The oldest release that knows all that is used, and the newest that the validator knows.
RELEASES = ["1.30.0", "1.37.0"]
# Kinds of the Prometheus operator, which Kubernetes' own schemas do not know; test_monitoring.py looks at them.
FOREIGN = {"ServiceMonitor", "PrometheusRule"}
# What stands in the Secret that people make themselves.
KEYS = {"CLARION_JWT_SECRET": "a secret of this test, long enough for HS256", "CLARION_API_KEYS": "key-1,key-2"}


@pytest.fixture
def with_monitoring(tmp_path):
    """An overlay as somebody with the Prometheus operator would write it."""
    # Kustomize takes nothing by an absolute path.
    up = "../" * (len(tmp_path.resolve().parts) - 1)
    resource, component = (f"{up}{DEPLOY}/k8s/{part}" for part in ("overlays/nats", "components/monitoring"))
    own = {"kind": "Kustomization", "namespace": "push", "resources": [resource], "components": [component]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(own))
    return render(tmp_path)


@pytest.mark.parametrize("name", OVERLAYS)
@pytest.mark.parametrize("release", RELEASES)
def test_all_that_is_rendered_is_valid(name, release):
    documents = overlay(name)
    assert {"Deployment", "Service", "PodDisruptionBudget", "HorizontalPodAutoscaler", "NetworkPolicy"} <= {
        document["kind"] for document in documents
    }
    for document in documents:
        kubernetes_validate.validate(document, release, strict=True)


def test_the_validator_finds_mistakes():
    deployment = dict(one(overlay("redis"), "Deployment"), specs={})
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, RELEASES[0], strict=True)


def test_the_monitoring_component_joins_any_overlay(with_monitoring):
    kinds = {document["kind"] for document in with_monitoring}
    assert FOREIGN <= kinds
    for document in with_monitoring:
        assert document["metadata"]["namespace"] == "push"
        if document["kind"] not in FOREIGN:
            kubernetes_validate.validate(document, RELEASES[-1], strict=True)
    monitor = one(with_monitoring, "ServiceMonitor")["spec"]
    services = [document for document in with_monitoring if document["kind"] == "Service"]
    scraped = [
        service["metadata"]["name"]
        for service in services
        if monitor["selector"]["matchLabels"].items() <= service["metadata"].get("labels", {}).items()
        and any(port["name"] == monitor["endpoints"][0]["port"] for port in service["spec"]["ports"])
    ]
    assert scraped == ["clarion-nodes"]


def environment(documents):
    """The variables of the broker's container, as the pod would have them."""
    container = broker_container(documents)
    # Kubernetes puts variables together from those that stand above them.
    known = {"POD_IP": "10.1.2.3"}
    for variable in container["env"]:
        source = variable.get("valueFrom", {})
        if "secretKeyRef" in source:
            reference = source["secretKeyRef"]
            value = one(documents, "Secret", reference["name"])["stringData"][reference["key"]]
        elif "value" in variable:
            value = re.sub(r"\$\((\w+)\)", lambda name: known[name[1]], variable["value"])
        else:
            value = known[variable["name"]]
        known[variable["name"]] = value
    assert [reference["secretRef"]["name"] for reference in container["envFrom"]] == ["clarion-keys"]
    return {**known, **KEYS}


def configured(name, tmp_path):
    """What the broker in this overlay's pods has in force."""
    documents = overlay(name)
    file = tmp_path / "clarion.toml"
    file.write_text(one(documents, "ConfigMap")["data"]["clarion.toml"])
    args = broker_container(documents)["args"]
    assert args == ["--config", "/etc/clarion/clarion.toml"]
    return configuration("--config", file, **environment(documents))


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_broker_knows_every_setting(name, tmp_path):
    config = configured(name, tmp_path)
    bus = "nats" if name.startswith("nats") else "redis"
    scheme = config["bus"]["url"].split("://")[0]
    assert scheme in {"nats": ["nats", "tls"], "redis": ["redis", "rediss"]}[bus]
    assert config["insecure"] is False
    assert config["advertise"] == "10.1.2.3:8000"


def test_a_stranger_among_the_variables_is_found(tmp_path):
    with pytest.raises(AssertionError, match="CLARION_SERVICE_HOST means nothing"):
        configuration(CLARION_SERVICE_HOST="10.0.0.1")


@pytest.mark.parametrize("name", OVERLAYS)
def test_ports_probes_and_drain_agree_with_the_broker(name, tmp_path):
    documents, config = overlay(name), configured(name, tmp_path)
    defaults = configuration()
    for key in ("listen", "admin_listen"):
        assert config[key].rsplit(":", 1)[1] == defaults[key].rsplit(":", 1)[1]

    container = broker_container(documents)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": int(config["listen"].rsplit(":", 1)[1]), "admin": int(config["admin_listen"].rsplit(":", 1)[1])}
    for probe, path in (("startup", "live"), ("liveness", "live"), ("readiness", "ready")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": f"/health/{path}", "port": "admin"}
    for service in ("clarion", "clarion-nodes"):
        for port in one(documents, "Service", service)["spec"]["ports"]:
            assert port["targetPort"] in ports

    # Five seconds unless it is set.
    wait, deadline = seconds(config["drain"].get("wait", "5s")), seconds(config["drain"]["deadline"])
    assert deadline == seconds(defaults["drain"]["deadline"])
    pod = one(documents, "Deployment")["spec"]["template"]["spec"]
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= pause + deadline + 5, "Kubernetes would kill a node that leaves in order"
    ready = container["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] < wait, "the node would stop accepting before it is noticed"


def test_the_autoscaler_fits_the_limit(tmp_path):
    limit = configured("redis", tmp_path)["limits"]["connections"]
    scaler = one(overlay("redis"), "HorizontalPodAutoscaler")["spec"]
    pods = next(metric["pods"] for metric in scaler["metrics"] if metric["type"] == "Pods")
    target = int(pods["target"]["averageValue"].removesuffix("k")) * 1000
    assert pods["metric"]["name"] == "clarion_connections"
    # Of the smallest fleet one node may be away while another is being replaced.
    assert scaler["minReplicas"] >= 3 and target * scaler["minReplicas"] <= limit * (scaler["minReplicas"] - 1)
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] >= 900
    assert "replicas" not in one(overlay("redis"), "Deployment")["spec"], "it would fight the autoscaler"


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_roll_and_an_eviction_never_go_below_strength(name):
    strategy = one(overlay(name), "Deployment")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert one(overlay(name), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_have_no_rights_that_they_do_not_need(name):
    documents = overlay(name)
    own = [pod["spec"] for pod in pods(documents).values()]
    # The brokers, the trial's bus, and the load's workers and coordinator.
    assert len(own) == {"existing": 1, "loadtest": 4}.get(name.rsplit("-")[-1], 2)
    for pod in own:
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False and rights["readOnlyRootFilesystem"] is True
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert set(container["resources"]) == {"requests", "limits"}
            assert ":" in container["image"] and not container["image"].endswith(":latest")
    assert one(documents, "ServiceAccount")["automountServiceAccountToken"] is False


@pytest.mark.parametrize("name", OVERLAYS)
def test_selectors_find_their_pods(name):
    documents = overlay(name)
    labelled = [pod["metadata"]["labels"] for pod in pods(documents).values()]
    for document in documents:
        spec = document.get("spec", {})
        labels = spec.get("selector") if document["kind"] == "Service" else None
        if document["kind"] in ("NetworkPolicy", "PodDisruptionBudget", "Deployment"):
            labels = (spec.get("podSelector") or spec["selector"])["matchLabels"]
        if labels is not None:
            found = [pod for pod in labelled if labels.items() <= pod.items()]
            # The load's coordinator and workers have one policy together.
            wanted = 2 if labels == {"app.kubernetes.io/name": "clarion-loadtest"} else 1
            assert len(found) == wanted, f"{document['kind']} {document['metadata']['name']} finds {len(found)} kinds of pods"


@pytest.mark.parametrize("name", OVERLAYS)
def test_the_network_policy_lets_nodes_reach_the_bus(name):
    documents = overlay(name)
    url = one(documents, "Secret", "clarion-bus")["stringData"]["url"]
    (rule,) = one(documents, "NetworkPolicy", "clarion-bus")["spec"]["egress"]
    assert [port["port"] for port in rule["ports"]] == [int(url.rsplit(":", 1)[1])]


@pytest.mark.parametrize("bus, says", [("redis", "Ready to accept connections"), ("nats", "Server is ready")])
def test_the_servers_of_the_trial_take_their_arguments(bus, says, start):
    (container,) = one(overlay(bus), "Deployment", f"clarion-{bus}")["spec"]["template"]["spec"]["containers"]
    # The images' entry points start the server when the first argument is an option or the server itself.
    arguments = [argument for argument in container["args"] if argument != "redis-server"]
    loopback = ["--bind", "127.0.0.1"] if bus == "redis" else ["--addr", "127.0.0.1"]

    def begin(port):
        server = start(f"{bus}-server", *arguments, *loopback, "--port", port)
        assert server.line("is ready", lambda line: says in line)

    on_free_port(begin)
