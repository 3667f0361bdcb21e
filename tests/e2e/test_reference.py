"""The references that a node serves at /docs: valid by their own meta-schemas, and true when strangers go by them."""

import json
import subprocess
import sys
import tomllib
import urllib.request

import jsonschema
import pytest
from conftest import PATIENCE, ROOT, token
from openapi_spec_validator import OpenAPIV31SpecValidator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT7

# What an answer is held to. The others judge which requests are taken, and a channel's name has rules that no schema tells.
CHECKS = ["not_a_server_error", "status_code_conformance", "content_type_conformance"]
CHECKS += ["response_headers_conformance", "response_schema_conformance"]
# Whoever follows what one answer gave into the next path takes an id for the name of a channel.
PHASES = "examples,coverage,fuzzing"


def document(node, name):
    with urllib.request.urlopen(f"{node.url}/docs/{name}", timeout=PATIENCE) as answer:
        return json.load(answer)


def test_http_is_described_by_openapi(broker):
    OpenAPIV31SpecValidator(document(broker(), "openapi.json")).validate()


def meta_schema_of_openrpc():
    script = "const m = require('@open-rpc/meta-schema'); console.log(JSON.stringify(m.default ?? m))"
    done = subprocess.run(["node", "-e", script], cwd=ROOT / "tests/e2e", capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_json_rpc_is_described_by_openrpc(broker):
    # It takes the schemas of parameters for draft 7 under another name.
    alias = {
        "allOf": [{"$ref": "http://json-schema.org/draft-07/schema#"}],
        "definitions": {"JSONSchemaObject": {"properties": {"$ref": {"type": "string"}}}},
    }
    resource = Resource(contents=alias, specification=DRAFT7)
    registry = Registry().with_resource("https://meta.json-schema.tools", resource)
    registry = registry.with_resource("https://meta.json-schema.tools/", resource)
    draft = Resource(contents=jsonschema.Draft7Validator.META_SCHEMA, specification=DRAFT7)
    registry = registry.with_resource("http://json-schema.org/draft-07/schema", draft)
    judge = jsonschema.Draft7Validator(meta_schema_of_openrpc(), registry=registry)
    openrpc = document(broker(), "openrpc.json")
    judge.validate(openrpc)
    for mistake in ({"methods": {}}, {"openrpc": "0.1"}, {"surplus": 1}):
        assert not judge.is_valid({**openrpc, **mistake}), mistake


def test_answers_of_json_rpc_are_as_described(broker, tmp_path):
    (tmp_path / "inbox.toml").write_text('[[namespaces]]\nprefix = "users"\ninbox = true\n')
    node = broker("--config", str(tmp_path / "inbox.toml"))
    openrpc = document(node, "openrpc.json")
    for method in openrpc["methods"]:
        example = method.get("examples", [{"params": []}])[0]
        call = {"method": method["name"], "params": {param["name"]: param["value"] for param in example["params"]}}
        _, answer = node.post("/rpc", {"jsonrpc": "2.0", "id": 1, **call}, "application/json")
        schema = {**method["result"]["schema"], "components": openrpc["components"]}
        jsonschema.Draft7Validator(schema).validate(answer["result"])


def test_the_schema_of_the_configuration_takes_what_the_node_takes(broker):
    schema = document(broker(), "configuration.schema.json")
    judge = jsonschema.Draft202012Validator(schema)
    judge.check_schema(schema)
    files = [ROOT / "deploy/k8s/base/clarion.toml", *ROOT.glob("examples/*/clarion.toml")]
    for file in files:
        judge.validate(tomllib.loads(file.read_text()))
    guide = (ROOT / "docs/configuration.md").read_text()
    judge.validate(tomllib.loads(guide.partition("```toml\n")[2].partition("```")[0]))
    for wrong in ("lissen = 1", "[limits]\nping = 5", "[limits]\nping = 'soon'", "pin = 'stay'", "[[namespaces]]\nslow = 'latest'"):
        assert not judge.is_valid(tomllib.loads(wrong)), wrong


def fuzz(node, url, tmp_path, *more):
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{node.url}/docs/openapi.json", "--url", url]
    command += ["--checks", ",".join(CHECKS), "--phases", PHASES, "--max-examples", "15", "--seed", "1", "--no-color"]
    command += ["--request-timeout", str(int(PATIENCE)), "--generation-database", "none", *more]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=10 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("guarded", [False, True])
def test_whoever_goes_by_the_document_gets_what_it_says(broker, tmp_path, guarded):
    secret = "a secret of these tests that is long enough for HS256"
    node = broker(**({"CLARION_JWT_SECRET": secret, "CLARION_API_KEYS": "the-key"} if guarded else {}))
    headers = ["-H", "X-API-Key: the-key", "-H", f"Authorization: Bearer {token(secret, sub='42')}"] if guarded else []
    told = fuzz(node, node.url, tmp_path, "--exclude-path-regex", "^/(health|metrics)", *headers)
    assert "Tested: 17" in told, told
    if not guarded:
        told = fuzz(node, node.admin, tmp_path, "--include-path-regex", "^/(health|metrics)")
        assert "Tested: 3" in told, told
