"""`make compose-test` does to a deployment what docs/operations.md and its neighbours say.

The log of a run that lost nothing is written to docs/figures/compose-test.txt. `python -m
tests.compose.run two` deploys the two machines of docs/postgres.md alone, and writes no log.

Needs the compose command and openssl. `COMPOSE` names another compose command, `ENGINE` another
command for its containers than `docker`, and `COMPOSE_STAND_IN` one that makes an image under a
name from a Dockerfile on standard input, for machines without a registry.
"""

import os
import platform
import shlex
import subprocess
import sys

from tests.compose.checks import (
    back_up,
    compare_with,
    enroll_here_and_query_there,
    import_a_folder,
    kill_each_in_turn,
    redis_goes_away,
    replace_under_load,
    train_and_reindex,
    watch_cameras,
    watch_with_prometheus,
)
from tests.compose.deployment import ROOT, Deployment, Failed, now, read_json
from tests.compose.load import Kept
from tests.compose.milvus import search_in_milvus
from tests.compose.postgres import serve_from_two_machines

LOG = ROOT / "docs" / "figures" / "compose-test.txt"
STAND_INS = {
    "haproxy:2.6-bookworm": "haproxy",
    "prom/prometheus:v3.5.0": "prometheus",
    "prom/alertmanager:v0.28.1": "alertmanager",
    "coreos/etcd:v3.5.18": "etcd",
    "minio/minio:RELEASE.2024-05-28T17-19-04Z": "minio",
    "milvusdb/milvus:v2.6.16": "milvus",
    "postgres:18-bookworm": "postgres",
}


def main():
    """Run all checks, or those that are named; the exit status is 0 if they pass."""
    parts = sys.argv[1:] or list(PARTS)
    lines = []
    try:
        _make_stand_ins()
        for part in parts:
            with Deployment() as deployment:
                PARTS[part](deployment)
                lines += deployment.log
    except Failed as failure:
        sys.stdout.write(f"FAILED: {failure}\n")
        return 1
    if parts == list(PARTS):
        LOG.write_text("".join(lines), encoding="utf-8")
    return 0


def _begin(it):
    it.say(f"begun {now()} on {platform.machine()}, {os.cpu_count()} cores")
    it.say(f"commit {_first_line('git', 'rev-parse', '--short', 'HEAD')}")
    if os.environ.get("COMPOSE_STAND_IN"):
        # Without its registry: not every maker of stand-ins takes one.
        it.set(ETCD_IMAGE="coreos/etcd:v3.5.18")
    _remember_the_key(it, it.do("secrets"))
    it.do("folder of backups")
    it.do("build")


def _one_machine(it):
    kept = Kept()
    _begin(it)
    it.do("up")
    it.say(f"ready after another {it.until_ready():.1f} s")
    _tell_versions(it)
    it.do("client")
    it.do("keys")
    enroll_here_and_query_there(it, kept)
    import_a_folder(it, kept)
    it.do("new password")
    it.until_ready()
    kill_each_in_turn(it, kept)
    redis_goes_away(it, kept)
    it.do("restart")
    it.until_ready()
    replace_under_load(it, kept)

    it.do("stop")
    it.do("up")
    it.until_ready()
    compare_with(it, kept, "after down and up")

    watch_cameras(it)
    watch_with_prometheus(it)
    it.compose("--profile", "camera", "stop", "camera")
    train_and_reindex(it, kept)

    back_up(it, kept)
    it.do("destroy")
    it.do("restore")
    it.until_ready()
    compare_with(it, kept, "after the volumes were destroyed and restored")
    it.do("audit")
    search_in_milvus(it, kept)
    it.say(f"done {now()}: nothing lost")


def _two_machines(it):
    kept = Kept()
    _begin(it)
    serve_from_two_machines(it, kept)
    it.say(f"done {now()}: nothing lost")


def _remember_the_key(it, shown):
    it.set(GMN_API_KEY=next(word for word in shown.split() if word.startswith("gmn_operator_")))


def _tell_versions(it):
    for words in (
        ("version",),
        ("exec", "-T", "redis", "redis-server", "--version"),
        ("exec", "-T", "proxy", "haproxy", "-v"),
        ("exec", "-T", "service", "gmn", "--version"),
        ("exec", "-T", "service", "python", "--version"),
    ):
        it.say(", ".join(it.compose(*words).strip().splitlines()[:2]))
    with it.through_the_proxy() as http:
        model = read_json(http.get("/v1/model"))
        it.say(f"model {model['artefact_fingerprint'][:12]}")


def _first_line(*command):
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]


def _make_stand_ins():
    maker = os.environ.get("COMPOSE_STAND_IN")
    for image, name in STAND_INS.items() if maker else ():
        with (ROOT / "docker" / "stand-ins" / f"{name}.Dockerfile").open() as dockerfile:
            subprocess.run([*shlex.split(maker or ""), image], stdin=dockerfile, check=True)


PARTS = {"one": _one_machine, "two": _two_machines}


if __name__ == "__main__":
    sys.exit(main())
