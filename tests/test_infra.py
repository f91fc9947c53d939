"""What is deployed agrees with the code: settings, metrics, topics, files, security."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml

from streams.errors import ConfigError
from streams.metrics import Metrics
from streams.schema import TOPICS
from streams.settings import load
from streams.topics import config_of

ROOT = Path(__file__).parents[1]
INFRA = ROOT / "infra"
MANIFESTS = (
    "namespace.yaml",
    "configmap.yaml",
    "secret.example.yaml",
    "topics.yaml",
    "worker.yaml",
)

INSTALLATION = ("job", "namespace")
"""Labels that the scrape gives: workers do not know what else is scraped."""


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((INFRA / "k8s" / name).read_text("utf-8")))


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return document


def settings_are_known(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> Any:
    for name, value in environment.items():
        assert isinstance(value, str), f"{name} is not text"
        monkeypatch.setenv(name, value)
    return load()


def test_compose_has_every_part_and_mounts_what_is_there() -> None:
    services = compose()["services"]
    assert set(services) == {
        "kafka", "redis", "topics", "worker", "prometheus", "grafana"
    }  # fmt: skip
    volumes = compose()["volumes"]
    for name, service in services.items():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            assert source in volumes or (ROOT / source).exists(), f"{name}: {mount}"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), f"{name} listens beyond this machine: {port}"
        for other in service.get("depends_on", []):
            assert other in services


def test_compose_waits_for_what_it_needs() -> None:
    services = compose()["services"]
    assert services["worker"]["depends_on"] == {
        "kafka": {"condition": "service_healthy"},
        "redis": {"condition": "service_healthy"},
        "topics": {"condition": "service_completed_successfully"},
    }
    for name in ("kafka", "redis"):
        assert services[name]["healthcheck"]["test"][0] == "CMD"
    # Asked every few seconds for ever: no Java for it. It asks at the address the workers use.
    asked = " ".join(services["kafka"]["healthcheck"]["test"])
    assert ".sh" not in asked
    port = services["worker"]["environment"]["FRAUDSTREAM_KAFKA__BOOTSTRAP"].partition(":")[2]
    assert asked.endswith(f"/{port}")


def test_compose_gives_the_service_a_home_that_is_its_own() -> None:
    dockerfile = (INFRA / "docker" / "Dockerfile").read_text("utf-8")
    user = re.findall(r"^USER (\d+)$", dockerfile, re.MULTILINE)[-1]
    home = re.findall(r"^WORKDIR (\S+)$", dockerfile, re.MULTILINE)[-1]
    for name in ("topics", "worker"):
        service = compose()["services"][name]
        assert service["read_only"] is True
        mounts = dict(mount.partition(":")[::2] for mount in service["tmpfs"])
        assert "/tmp" in mounts
        assert f"uid={user}" in mounts[home].split(","), "a tmpfs is root's unless told"


def test_compose_keeps_what_was_compiled() -> None:
    """In a folder that the image gives to the service's user; else the volume would be root's."""
    dockerfile = (INFRA / "docker" / "Dockerfile").read_text("utf-8")
    for name in ("topics", "worker"):
        service = compose()["services"][name]
        place = service["environment"]["NUMBA_CACHE_DIR"]
        volume = next(v.partition(":")[0] for v in service["volumes"] if v.endswith(f":{place}"))
        assert volume in compose()["volumes"]
    user = re.findall(r"^USER (\d+)$", dockerfile, re.MULTILINE)[-1]
    assert re.search(
        rf"^RUN install --directory --owner={user} .*{place}$", dockerfile, re.MULTILINE
    )


def test_compose_makes_its_own_image_once_and_asks_no_registry_for_it() -> None:
    """Two services that build one name: `up --build` fails on a new machine, "already exists"."""
    services = compose()["services"].values()
    built = [service["image"] for service in services if "build" in service]
    assert built == ["fraudstream"]
    ours = [service for service in services if service["image"] in built]
    assert len(ours) == 2
    assert {service.get("pull_policy") for service in ours} == {"never"}


def test_what_is_laid_over_compose_for_a_gpu_fits_it() -> None:
    over = yaml.safe_load((INFRA / "docker" / "gpu.yml").read_text("utf-8"))
    assert set(over["services"]) == {"worker"} <= set(compose()["services"])
    said = (ROOT / "docker-compose.yml").read_text("utf-8")
    assert "-f docker-compose.yml -f infra/docker/gpu.yml up" in said


def test_compose_settings_exist_and_fit_the_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    services = compose()["services"]
    settings = settings_are_known(monkeypatch, services["worker"]["environment"])
    kafka = services["kafka"]["environment"]
    assert f"INSIDE://{settings.kafka.bootstrap}" in kafka["KAFKA_ADVERTISED_LISTENERS"]
    scrape = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text("utf-8"))
    assert scrape["scrape_configs"][0]["dns_sd_configs"][0]["port"] == settings.metrics.port
    # The host's defaults reach the published ports.
    assert "HOST://localhost:9092" in kafka["KAFKA_ADVERTISED_LISTENERS"]
    assert services["kafka"]["ports"] == ["127.0.0.1:9092:9092"]
    assert services["redis"]["ports"] == ["127.0.0.1:6379:6379"]


def test_compose_adds_to_the_shared_broker_settings_and_overrides_none() -> None:
    lines = (INFRA / "kafka" / "server.properties").read_text("utf-8").splitlines()
    shared = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    added = {
        name.removeprefix("KAFKA_").lower().replace("_", ".")
        for name in compose()["services"]["kafka"]["environment"]
    }
    assert shared & added == set()
    assert {"process.roles", "node.id"} <= shared


def test_the_image_copies_what_is_there_and_runs_as_nobody() -> None:
    text = (INFRA / "docker" / "Dockerfile").read_text("utf-8")
    allowed = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    ]
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert source in allowed
    assert "USER 10001" in text


def test_the_small_image_leaves_out_what_only_a_gpu_needs_and_nothing_else() -> None:
    """`TORCH=cpu`: the Dockerfile's own awk over the lock, and what torch says it requires."""
    text = (INFRA / "docker" / "Dockerfile").read_text("utf-8")
    program = re.search(r"awk '(.+)'", text)
    assert program is not None
    lock = ROOT / "requirements.txt"
    kept = subprocess.run(
        ["awk", program[1], str(lock)], capture_output=True, text=True, check=True
    ).stdout
    name = re.compile(r"^([a-z0-9][a-z0-9-]*)==", re.MULTILINE)
    left_out = set(name.findall(lock.read_text("utf-8"))) - set(name.findall(kept))
    assert {"torch", "triton"} <= left_out
    assert all(re.match(r"torch$|triton$|nvidia-|cuda-", one) for one in left_out)
    assert not re.search(r"^(torch|triton|nvidia|cuda)", kept, re.MULTILINE)
    everywhere = {
        re.split(r"[^A-Za-z0-9-]", one)[0] for one in requires("torch") or [] if ";" not in one
    }
    assert everywhere and everywhere <= set(name.findall(kept))


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifest_is_well_formed(name: str) -> None:
    for document in documents(name):
        assert {"apiVersion", "kind", "metadata"} <= document.keys()


def test_kustomization_names_every_manifest_but_the_example() -> None:
    named = documents("kustomization.yaml")[0]["resources"]
    there = {path.name for path in (INFRA / "k8s").glob("*.yaml")}
    assert set(named) == there - {"kustomization.yaml", "secret.example.yaml"}


def test_kubernetes_settings_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = documents("configmap.yaml")[0]["data"]
    environment |= documents("secret.example.yaml")[0]["stringData"]
    settings = settings_are_known(monkeypatch, environment)
    worker = pod("worker.yaml")["containers"][0]
    assert worker["ports"][0]["containerPort"] == settings.metrics.port
    mounted = worker["volumeMounts"][0]["mountPath"]
    for path in (settings.kafka.ssl_ca, settings.redis.ssl_ca):
        assert str(path.parent) == mounted
    files = documents("secret.example.yaml")[1]["stringData"]
    assert {settings.kafka.ssl_ca.name, settings.redis.ssl_ca.name} == files.keys()


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = documents(name)[0]["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize("name", ["topics.yaml", "worker.yaml"])
def test_a_service_beside_the_pods_is_no_wrong_setting(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kubernetes tells pods of each Service in variables that begin with the Service's name."""
    monkeypatch.setenv("FRAUDSTREAM_SERVICE_HOST", "10.0.0.1")
    with pytest.raises(ConfigError, match="FRAUDSTREAM_SERVICE_HOST"):
        load()
    assert pod(name)["enableServiceLinks"] is False


@pytest.mark.parametrize("name", ["topics.yaml", "worker.yaml"])
def test_pods_keep_the_restricted_standard(name: str) -> None:
    spec = pod(name)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]


def test_worker_has_probes_on_its_metrics_and_time_to_stop() -> None:
    spec = pod("worker.yaml")
    worker = spec["containers"][0]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert worker[probe]["httpGet"] == {"path": "/metrics", "port": "metrics"}
    assert spec["terminationGracePeriodSeconds"] > 5


def test_topics_file_is_the_schema() -> None:
    listed = yaml.safe_load((INFRA / "kafka" / "topics.yaml").read_text("utf-8"))["topics"]
    assert [(topic["name"], topic["key"]) for topic in listed] == [
        (spec.name, spec.key) for spec in TOPICS
    ]
    for topic, spec in zip(listed, TOPICS, strict=True):
        assert topic["config"] == config_of(spec, topic["replication"])


def known_series() -> set[str]:
    """Every name that a worker's endpoint can show."""
    return {
        f"{family.name}{suffix}"
        for family in Metrics().registry.collect()
        for suffix in {
            "counter": ("_total",),
            "gauge": ("",),
            "histogram": ("_bucket", "_sum", "_count"),
        }[family.type]
    }


def asked_series(text: str) -> set[str]:
    return set(re.findall(r"\bfraudstream_\w+", text))


def rules() -> Iterator[dict[str, Any]]:
    document = yaml.safe_load((INFRA / "prometheus" / "rules.yml").read_text("utf-8"))
    for group in document["groups"]:
        yield from group["rules"]


def test_alerts_ask_for_metrics_that_exist_and_chapters_that_exist() -> None:
    chapters = {
        re.sub(r"[^a-z0-9 -]", "", line[3:].lower()).replace(" ", "-")
        for line in (INFRA / "runbook.md").read_text("utf-8").splitlines()
        if line.startswith("## ")
    }
    for rule in rules():
        assert asked_series(rule["expr"])
        assert asked_series(rule["expr"]) <= known_series(), rule["alert"]
        file, _, chapter = rule["annotations"]["runbook"].partition("#")
        assert file == "infra/runbook.md"
        assert chapter in chapters


def board_expressions() -> Iterator[str]:
    path = INFRA / "grafana" / "dashboards" / "fraudstream.json"
    for panel in json.loads(path.read_text("utf-8"))["panels"]:
        for target in panel.get("targets", []):
            yield target["expr"]


def test_rules_and_board_ask_for_labels_and_values_that_a_worker_tells() -> None:
    """Those of the scrape are whoever scrapes' own: a job may have any name."""
    told: dict[str, set[str]] = {"le": set(), **{name: set() for name in INSTALLATION}}
    metrics = Metrics()
    metrics.set_lag({0: 0})
    for family in metrics.registry.collect():
        for sample in family.samples:
            for label, value in sample.labels.items():
                told.setdefault(label, set()).add(value)
    for expression in [*board_expressions(), *(rule["expr"] for rule in rules())]:
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            assert {each.strip() for each in grouped.split(",")} <= told.keys(), expression
        for label, value in re.findall(r'(\w+)!?="([^"]*)"', expression):
            assert value in told.get(label, ()), expression


def test_no_installation_hides_behind_another() -> None:
    """One Prometheus may scrape several: all were added up, and one stood still unseen."""
    board = INFRA / "grafana" / "dashboards" / "fraudstream.json"
    for panel in json.loads(board.read_text("utf-8"))["panels"]:
        for target in panel.get("targets", []):
            summed = " by (" in target["expr"]
            assert summed == target["legendFormat"].startswith("{{job}} {{namespace}} ")
    for expression in [*board_expressions(), *(rule["expr"] for rule in rules())]:
        for by in re.findall(r"\b(?:sum|max|min|avg|count)\b(?: by \(([^)]*)\))?", expression):
            assert tuple(by.split(", ")[:2]) == INSTALLATION, expression


def test_board_asks_for_metrics_that_exist_and_shows_most_of_them() -> None:
    path = INFRA / "grafana" / "dashboards" / "fraudstream.json"
    board = json.loads(path.read_text("utf-8"))
    asked = {name for expression in board_expressions() for name in asked_series(expression)}
    assert asked <= known_series()
    families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in known_series()}
    shown = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked}
    assert families - shown == set()
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))


def test_grafana_finds_its_source_and_its_board() -> None:
    provisioning = INFRA / "grafana" / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text("utf-8"))
    board = json.loads((INFRA / "grafana" / "dashboards" / "fraudstream.json").read_text("utf-8"))
    uids = {panel["datasource"]["uid"] for panel in board["panels"] if "datasource" in panel}
    assert uids == {source["datasources"][0]["uid"]}
    files = yaml.safe_load((provisioning / "dashboards" / "fraudstream.yml").read_text("utf-8"))
    mounts = compose()["services"]["grafana"]["volumes"]
    path = files["providers"][0]["options"]["path"]
    assert any(mount.split(":")[1] == path for mount in mounts)


def test_setup_makes_an_environment_once_more_that_was_broken_off(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("requirements-dev.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    binaries = tmp_path / ".venv" / "bin"
    # Stands for every Python: `-m venv` makes pip, and `-m pip` without it fails, else makes uv.
    fake = tmp_path / "fake-python"
    fake.write_text(
        "#!/bin/sh\n"
        f'case "$*" in "-m venv"*) touch {binaries}/pip ;;\n'
        f'"-m pip"*) test -e {binaries}/pip && ln -s /bin/true {binaries}/uv ;; esac\n'
    )
    fake.chmod(0o755)
    binaries.mkdir(parents=True)
    (binaries / "python").symlink_to(fake)  # as a Ctrl-C in the middle of `-m venv` leaves it
    done = subprocess.run(
        ["make", "setup", f"PYTHON={fake}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".venv" / ".ready").exists()
