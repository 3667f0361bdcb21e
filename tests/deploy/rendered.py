"""The manifests as Kubernetes gets them, and what the broker says of itself."""

import functools
import os
import re
import subprocess
import tomllib
from pathlib import Path

import kubernetes_validate
import yaml
from conftest import BROKER, ROOT

DEPLOY = ROOT / "deploy"
OVERLAYS = sorted(path.name for path in (DEPLOY / "k8s/overlays").iterdir())
# kubectl comes as a Python package; next to the other ones of ./test, or wherever this Python looks.
KUBECTL = Path(kubernetes_validate.__file__).parents[1] / "bin/kubectl"


@functools.cache
def render(folder):
    """What `kubectl apply -k` would send."""
    command = [KUBECTL if KUBECTL.exists() else "kubectl", "kustomize", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stderr, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def overlay(name):
    return render(DEPLOY / "k8s/overlays" / name)


def one(documents, kind, name="clarion"):
    """The only object of this kind and name; that of a ConfigMap ends in a hash."""
    wanted = re.escape(name) + ("-[a-z0-9]{10}" if kind == "ConfigMap" else "")
    found = [document for document in documents if document["kind"] == kind and re.fullmatch(wanted, document["metadata"]["name"])]
    assert len(found) == 1, f"{kind} {name}: {len(found)}"
    return found[0]


def pods(documents):
    """What pods are made from, with the kind and name of what makes them."""
    makers = [document for document in documents if document["kind"] in ("Deployment", "StatefulSet", "Job")]
    return {(maker["kind"], maker["metadata"]["name"]): maker["spec"]["template"] for maker in makers}


def broker_container(documents):
    (container,) = one(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    return container


def clean_environment(**variables):
    """Our environment without settings of a broker, and with these."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("CLARION_")}
    return {**clean, **variables}


def configuration(*args, **variables):
    """What `clarion-broker config` makes of these; it must find nothing strange in them."""
    command = [BROKER, "config", *args]
    done = subprocess.run(command, env=clean_environment(**variables), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "means nothing" not in done.stderr, done.stderr
    return tomllib.loads(done.stdout)


def seconds(text):
    """30s, 500ms, 1m: as the broker, Prometheus and compose write durations."""
    for unit, factor in (("ms", 0.001), ("s", 1), ("m", 60)):
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    raise AssertionError(f"{text} has no unit")
