"""The image and compose.yaml, as far as they can be judged without an engine that builds and runs them."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
import urllib.request

import pytest
import yaml
from conftest import BROKER, ROOT, eventually, free_port, listening, on_free_port
from rendered import DEPLOY, broker_container, clean_environment, configuration, one, overlay, pods, seconds


def instructions():
    """The Dockerfile's instructions, each with the stage it stands in."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()).replace("\\\n", " ")
    stage, found = -1, []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, rest = line.split(None, 1)
        stage += name == "FROM"
        found.append((stage, name, rest))
    return found


FINAL = max(stage for stage, _, _ in instructions())


def final(name):
    return [rest for stage, instruction, rest in instructions() if stage == FINAL and instruction == name]


def image_environment():
    return dict(part.split("=", 1) for line in final("ENV") for part in shlex.split(line))


def test_the_entry_point_starts_the_broker(start):
    (entry,) = map(json.loads, final("ENTRYPOINT"))
    assert entry[0].rsplit("/", 1)[1] == BROKER.name
    variables = image_environment()
    # The same on ports that are free here, and on loopback.
    public, admin = free_port(), free_port()
    variables.update(CLARION_LISTEN=f"127.0.0.1:{public}", CLARION_ADMIN_LISTEN=f"127.0.0.1:{admin}")
    node = start(BROKER, *entry[1:], env=clean_environment(**variables))
    assert node.line("listens", listening)["listen"] == f"127.0.0.1:{public}"

    (check,) = final("HEALTHCHECK")
    probe = json.loads(check.split("CMD", 1)[1])
    url = probe[-1].replace(":8001", f":{admin}")
    eventually("the image's health check passes", lambda: urllib.request.urlopen(url, timeout=5).status == 200)


def test_the_image_alone_says_that_it_wants_keys():
    done = subprocess.run([BROKER], env=clean_environment(**image_environment()), capture_output=True, text=True, timeout=60)
    assert done.returncode == 64 and "CLARION_JWT_SECRET" in done.stderr
    config = configuration(**image_environment(), CLARION_JWT_SECRET="long enough to be a secret of HS256")
    assert (config["listen"], config["admin_listen"]) == ("0.0.0.0:8000", "0.0.0.0:8001")
    assert final("EXPOSE") == ["8000 8001"]


def test_the_list_of_contents_has_the_crates():
    # Without an engine: that the build is asked for the list, and that what it is made from gets into the build.
    text = (ROOT / "Dockerfile").read_text()
    assert "ARG BUILDKIT_SBOM_SCAN_CONTEXT=true\n" in text.split("\nFROM ")[0] + "\n"
    assert "!Cargo.lock" in (ROOT / ".dockerignore").read_text().split()
    assert "buildx build --sbom=true" in (DEPLOY / "README.md").read_text()


def test_the_image_has_every_program_that_is_run_from_it():
    (copied,) = [copy for copy in final("COPY") if copy.startswith("--from=build")]
    there = {f"/usr/local/bin/{path.rsplit('/', 1)[1]}" for path in copied.split()[1:-1]}
    run = {json.loads(entry)[0] for entry in final("ENTRYPOINT")}
    for pod in pods(overlay("redis-loadtest")).values():
        run |= {container["command"][0] for container in pod["spec"]["containers"] if "command" in container}
    assert run == {"/usr/local/bin/clarion-broker", "/usr/local/bin/clarion-loadtest"} and run <= there
    built = next(rest for _, name, rest in reversed(instructions()) if name == "RUN" and "cargo build" in rest)
    assert {"clarion-broker", "clarion-loadtest"} <= set(re.findall(r"-p (\S+)", built))


def test_what_the_health_check_runs_is_in_the_image():
    (check,) = final("HEALTHCHECK")
    program = json.loads(check.split("CMD", 1)[1])[0]
    assert any(copy.startswith("--from=") and copy.split()[-1] == program for copy in final("COPY"))
    assert "/health/live" in check and ":8001/" in check


def test_the_image_runs_as_the_user_of_the_manifests():
    context = one(overlay("redis"), "Deployment")["spec"]["template"]["spec"]["securityContext"]
    assert final("USER") == [f"{context['runAsUser']}:{context['runAsGroup']}"]
    labels = " ".join(final("LABEL"))
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in labels


def test_the_image_is_built_by_our_toolchain_from_every_crate():
    toolchain = tomllib.loads((ROOT / "rust-toolchain.toml").read_text())["toolchain"]["channel"]
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]
    text = (ROOT / "Dockerfile").read_text()
    assert f"ARG RUST={toolchain}\n" in text
    version = workspace["package"]["version"]
    assert f"ARG VERSION={version}\n" in text
    assert broker_container(overlay("redis"))["image"].endswith(f":{version}")
    let_in = (ROOT / ".dockerignore").read_text().split()
    for crate in workspace["members"]:
        assert f"COPY {crate}/Cargo.toml {crate}/\n" in text, f"{crate} is missing in the layer of dependencies"
        assert f"!{crate.split('/')[0]}" in let_in, f"{crate} does not get into the build"


def test_the_layer_of_dependencies_is_a_workspace(tmp_path):
    """The stage's own commands, on its own files, up to where cargo would build."""
    for _, name, rest in instructions():
        if name == "COPY" and rest != ". ." and not rest.startswith("--from"):
            *sources, target = rest.split()
            for source in sources:
                to = tmp_path / target / source.rsplit("/", 1)[-1]
                to.parent.mkdir(parents=True, exist_ok=True)
                to.write_bytes((ROOT / source).read_bytes())
    make = next(rest for _, name, rest in instructions() if name == "RUN").split("&& cargo")[0]
    subprocess.run(["sh", "-ec", make], cwd=tmp_path, check=True)
    metadata = ["cargo", "metadata", "--locked", "--offline", "--format-version=1", "--no-deps"]
    done = subprocess.run(metadata, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    targets = {target["name"] for package in json.loads(done.stdout)["packages"] for target in package["targets"]}
    assert {"clarion-broker", "clarion"} <= targets


def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def test_compose_has_all_that_it_names():
    services = compose()["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", [])) <= set(services), name
        for volume in service.get("volumes", []):
            source, _, mode = volume.split(":")
            assert (DEPLOY / source).exists() and mode == "ro", f"{name}: {source}"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} would be open to the network, and it has no keys"
        assert "build" in service or re.search(r":v?\d", service["image"]), f"{name} has no version"
    assert (DEPLOY / services["broker-1"]["build"]["context"] / "Dockerfile").resolve() == ROOT / "Dockerfile"


def test_compose_starts_brokers_as_they_want_to_be():
    services = compose()["services"]
    brokers = [service for name, service in services.items() if name.startswith("broker-")]
    assert len(brokers) == 3
    for broker in brokers:
        bus = re.fullmatch(r"\$\{CLARION_BUS:-(.*)\}", broker["environment"]["CLARION_BUS"])[1]
        assert bus.split("://")[1].split(":")[0] in services
        config = configuration(**{**image_environment(), **broker["environment"], "CLARION_BUS": bus})
        assert seconds(broker["stop_grace_period"]) > seconds(config["drain"]["deadline"])


def test_compose_starts_the_example_beside_the_nodes(start, redis_url):
    service = compose()["services"]["orders"]
    folder = DEPLOY / service["build"]["context"]
    entry = json.loads(re.search(r"(?m)^ENTRYPOINT (.*)", (folder / "Dockerfile").read_text())[1])
    assert entry[0] == "python3" and (folder / entry[-1]).exists()
    # All but the bus, and ports that are free here.
    arguments = [f"--bus={redis_url}" if argument.startswith("--bus=") else argument for argument in service["command"]]
    arguments = [argument.replace("0.0.0.0", "127.0.0.1") for argument in arguments]

    def begin(port):
        shop = start(sys.executable, *entry[1:-1], folder / entry[-1], *arguments, "--rate", "0", "--port", port)
        assert shop.line("is up", lambda line: "a buyer" in line)
        return port

    port = on_free_port(begin)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/settings.json", timeout=30) as answer:
        settings = json.loads(answer.read())
    (published,) = compose()["services"]["proxy"]["ports"]
    assert settings["push"] == [f"http://localhost:{published.split(':')[1]}"]
    at = {int(url.rsplit(":", 1)[1].split("/")[0]) - port for url in (settings["state"], settings["payments"])} | {0}
    assert {int(published.split(":")[1]) - 9000 for published in service["ports"]} == at


@pytest.mark.parametrize("file", ["compose/haproxy.cfg", "prometheus/prometheus.yaml"])
def test_compose_names_each_broker_wherever_it_counts_them(file):
    text = (DEPLOY / file).read_text()
    named = set(re.findall(r"\bbroker-\d+", text))
    assert named == {name for name in compose()["services"] if name.startswith("broker-")}
