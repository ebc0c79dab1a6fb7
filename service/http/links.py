"""How one call's answer leads to another call, for the OpenAPI document."""

from __future__ import annotations

from typing import Any

Address = dict[str, str]

GALLERY = "/v1/galleries/{gallery}"
CROP = f"{GALLERY}/crops/{{crop_id}}"
IDENTITY = f"{GALLERY}/identities/{{identity}}"
SNAPSHOT = f"{GALLERY}/snapshots/{{snapshot_id}}"
JOB = "/v1/jobs/{job_id}"

HERE = "$request.path.gallery"
OF_A_GALLERY = (
    f"GET {GALLERY}",
    f"PATCH {GALLERY}",
    f"DELETE {GALLERY}",
    f"POST {GALLERY}/crops",
    f"GET {GALLERY}/crops",
    f"GET {GALLERY}/identities",
    f"POST {GALLERY}/queries",
    f"POST {GALLERY}/imports",
    f"POST {GALLERY}/snapshots",
)
OF_A_CROP = (f"GET {CROP}", f"GET {CROP}/image", f"DELETE {CROP}")
OF_AN_IDENTITY = (f"PATCH {IDENTITY}", f"DELETE {IDENTITY}")
OF_A_SNAPSHOT = (f"GET {SNAPSHOT}", f"POST {SNAPSHOT}/restore", f"DELETE {SNAPSHOT}")
OF_A_JOB = (f"GET {JOB}", f"GET {JOB}/events", f"GET {JOB}/report", f"DELETE {JOB}")


def _crop(place: str) -> Address:
    return {"path.gallery": HERE, "path.crop_id": f"$response.body#{place}/crop_id"}


def _snapshot(place: str) -> Address:
    return {"path.gallery": HERE, "path.snapshot_id": f"$response.body#{place}/snapshot_id"}


THIS_JOB = {"path.job_id": "$response.body#/job_id"}
LIKE_IT = {"path.gallery": HERE, "body.crop_id": "$response.body#/results/0/crop_id"}
FIRST_IDENTITY = {"path.gallery": HERE, "path.identity": "$response.body#/results/0/identity"}

# What was answered with which status, which calls it leads to, and what to put into them.
LINKS: tuple[tuple[str, str, tuple[str, ...], Address], ...] = (
    ("POST /v1/galleries", "201", OF_A_GALLERY, {"path.gallery": "$response.body#/name"}),
    (f"POST {GALLERY}/crops", "201", OF_A_CROP, _crop("/results/0")),
    (f"POST {GALLERY}/crops", "201", (f"POST {GALLERY}/queries",), LIKE_IT),
    (f"GET {GALLERY}/crops", "200", OF_A_CROP, _crop("/results/0")),
    (f"POST {GALLERY}/queries", "200", OF_A_CROP[:2], _crop("/results/0")),
    (f"GET {GALLERY}/identities", "200", OF_AN_IDENTITY, FIRST_IDENTITY),
    (f"POST {GALLERY}/snapshots", "201", OF_A_SNAPSHOT, _snapshot("")),
    (f"GET {GALLERY}/snapshots", "200", OF_A_SNAPSHOT, _snapshot("/results/0")),
    (f"POST {GALLERY}/imports", "202", OF_A_JOB, THIS_JOB),
    (f"POST {GALLERY}/reindex", "202", OF_A_JOB, THIS_JOB),
)


def link_calls(document: dict[str, Any]) -> None:
    """Adds to an OpenAPI document what can be asked next with what a call answered.

    Args:
        document: with every call in it; changed in place.
    """
    for source, status, targets, parameters in LINKS:
        answer = _call(document, source)["responses"][status]
        for target in targets:
            operation_id = _call(document, target)["operationId"]
            link: dict[str, Any] = {"operationId": operation_id, "parameters": {}}
            for name, value in parameters.items():
                if name.startswith("body."):
                    link.setdefault("requestBody", {})[name.removeprefix("body.")] = value
                else:
                    link["parameters"][name] = value
            answer.setdefault("links", {})[operation_id] = link


def _call(document: dict[str, Any], call: str) -> dict[str, Any]:
    method, _, path = call.partition(" ")
    found: dict[str, Any] = document["paths"][path][method.lower()]
    return found
