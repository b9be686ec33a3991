"""The YAML of docs/kubernetes against the programs it starts: whether it can be read, and agrees with them and with itself.

    kubernetes.py TILESIGHT TRITONSERVER

Each container's options must be those of its program, its probes must ask, at ports that the program listens on, for what
it answers, and the time it is given to end must be longer than what it takes. No cluster has seen any of it.
"""

import glob
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import yaml

tilesight, tritonserver = sys.argv[1:]


def containers(document):
    """A document's containers, and the pod that says how long they may take to end; in a runtime it does not."""
    kind, spec = document["kind"], document.get("spec", {})
    if kind == "Deployment":
        pod = spec["template"]["spec"]
        return [(container, pod) for container in pod["containers"]]
    if kind == "ServingRuntime":
        return [(container, None) for container in spec["containers"]]
    assert kind in ("Service", "PodDisruptionBudget", "NetworkPolicy", "InferenceService"), kind
    return []


def options(container):
    return dict(argument.removeprefix("--").split("=", 1) for argument in container["args"] if argument.startswith("--"))


def known_options(command):
    """The options that a program's help lists. That of tritonserver goes to standard error, with status 1."""
    run = subprocess.run([*command, "--help"], capture_output=True, text=True)
    return set(re.findall(r"^ +--([a-z][a-z0-9-]+)", run.stdout + run.stderr, re.MULTILINE))


def status(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


def probes(container):
    names = {port["name"]: port["containerPort"] for port in container["ports"]}
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        probe = container[name]["httpGet"]
        yield probe["path"], names.get(probe["port"], probe["port"])


def check_serve(container):
    """Every option and value is one that this program takes, and it then answers what the probes ask for."""
    assert container["args"][0] == "serve", container
    chosen = options(container)
    assert not set(chosen) - known_options([tilesight, "serve"]), chosen
    listeners = ("listen", "grpc-listen", "health-listen")
    ports = {int(chosen[name].rsplit(":", 1)[1]) for name in listeners}
    assert ports == {port["containerPort"] for port in container["ports"]}, ports
    assert all(chosen[name].startswith("0.0.0.0:") for name in listeners), chosen
    # Here there is neither its model nor its GPU, and ports may be taken; all else is as it stands.
    here = {**chosen, "model": "tests/golden/hf_tiny", "device": "cpu", **dict.fromkeys(listeners, "127.0.0.1:0")}
    command = [tilesight, "serve", *(f"--{name}={value}" for name, value in here.items())]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stderr=log, stdout=log)
        try:
            for _ in range(1200):
                log.seek(0)
                listening = re.search(r'"health":"127\.0\.0\.1:(\d+)"', log.read())
                if listening and status(listening[1], "/health/ready") == 200:
                    break
                time.sleep(0.1)
            log.seek(0)
            assert listening, log.read()
            for path, port in probes(container):
                assert port == int(chosen["health-listen"].rsplit(":", 1)[1]) and status(listening[1], path) == 200, (path, port)
            assert status(listening[1], "/health/other") == 404
        finally:
            server.terminate()
            assert server.wait(300) == 0
    return int(chosen["drain-timeout"])


def check_triton(container):
    chosen = options(container)
    assert container["command"] == ["tritonserver"] and not set(chosen) - known_options([tritonserver]), chosen
    ports = {int(chosen[name]) for name in ("http-port", "grpc-port", "metrics-port")}
    assert ports == {port["containerPort"] for port in container["ports"]}, ports
    for path, port in probes(container):
        assert port == int(chosen["http-port"]) and path in ("/v2/health/ready", "/v2/models/tilesight/ready"), path
    return int(chosen["exit-timeout-secs"])


paths = sorted(glob.glob("docs/kubernetes/*.yaml"))
assert len(paths) == 3, paths
for path in paths:
    with open(path) as file:
        documents = list(yaml.safe_load_all(file))
    kinds = {}
    for document in documents:
        assert document["apiVersion"] and document["metadata"]["name"], document
        kinds.setdefault(document["kind"], []).append(document)
    found = [pair for document in documents for pair in containers(document)]
    [(container, pod)] = found
    ends_after = check_triton(container) if "command" in container else check_serve(container)
    ends_after += container["lifecycle"]["preStop"]["sleep"]["seconds"]
    if pod is None:
        [runtime], [service] = kinds["ServingRuntime"], kinds["InferenceService"]
        pod, model = service["spec"]["predictor"], service["spec"]["predictor"]["model"]
        formats = [known["name"] for known in runtime["spec"]["supportedModelFormats"]]
        assert model["runtime"] == runtime["metadata"]["name"] and model["modelFormat"]["name"] in formats
        assert model["protocolVersion"] in runtime["spec"]["protocolVersions"] and container["name"] == "kserve-container"
    else:
        labels = kinds["Deployment"][0]["spec"]["template"]["metadata"]["labels"]
        names = {port["name"] for port in container["ports"]}
        for service in kinds["Service"]:
            assert service["spec"]["selector"].items() <= labels.items()
            assert all(port["targetPort"] in names for port in service["spec"]["ports"])
        volumes = {volume["name"] for volume in pod["volumes"]}
        assert all(mount["name"] in volumes for mount in container["volumeMounts"])
    assert pod["terminationGracePeriodSeconds"] > ends_after, ends_after
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    print(f"{os.path.relpath(path)}: {len(documents)} objects, and the options and probes of its program")
