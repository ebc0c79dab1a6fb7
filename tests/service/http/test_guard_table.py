"""Every call with every kind of key: one line a call, with the scopes of which one opens it."""

import re

import pytest

# "open" needs no key, "signed" a signature in the address. "any" is of no one gallery: a key for
# another gallery may call it too.
TABLE = """
GET /livez : open
GET /readyz : open
GET /metrics : metrics
GET /v1/model : query any
POST /v1/queries : query any
POST /v1/visits : query any
POST /v1/people : query enroll any
POST /v1/pairs : query any
POST /v1/embeddings : query any
GET /v1/doctor : admin
GET /v1/keys : admin
POST /v1/keys : admin
DELETE /v1/keys/{key_id} : admin
GET /v1/jobs : query enroll any
GET /v1/jobs/{job_id} : query enroll any
GET /v1/jobs/{job_id}/events : query enroll any
GET /v1/jobs/{job_id}/report : query enroll any
DELETE /v1/jobs/{job_id} : enroll any
GET /v1/galleries : query enroll any
POST /v1/galleries : admin any
GET /v1/galleries/{gallery} : query enroll
PATCH /v1/galleries/{gallery} : admin
DELETE /v1/galleries/{gallery} : admin
GET /v1/galleries/{gallery}/crops : query
POST /v1/galleries/{gallery}/crops : enroll
PATCH /v1/galleries/{gallery}/crops : admin
DELETE /v1/galleries/{gallery}/crops : admin
GET /v1/galleries/{gallery}/crops/{crop_id} : query
PATCH /v1/galleries/{gallery}/crops/{crop_id} : admin
DELETE /v1/galleries/{gallery}/crops/{crop_id} : delete
GET /v1/galleries/{gallery}/crops/{crop_id}/image : query
GET /v1/galleries/{gallery}/doubtful : query
PUT /v1/galleries/{gallery}/doubtful/{crop_id}/confirmation : admin
DELETE /v1/galleries/{gallery}/doubtful/{crop_id}/confirmation : admin
GET /v1/galleries/{gallery}/tracks : query
GET /v1/galleries/{gallery}/identities : query
GET /v1/galleries/{gallery}/identities/{identity} : query
PATCH /v1/galleries/{gallery}/identities/{identity} : admin
DELETE /v1/galleries/{gallery}/identities/{identity} : admin
GET /v1/galleries/{gallery}/similar : query
GET /v1/galleries/{gallery}/merges : query
POST /v1/galleries/{gallery}/merges/{merge_id}/undo : admin
POST /v1/galleries/{gallery}/queries : query
GET /v1/galleries/{gallery}/queries : query
GET /v1/galleries/{gallery}/queries/{query_id} : query
DELETE /v1/galleries/{gallery}/queries/{query_id} : query
GET /v1/galleries/{gallery}/queries/{query_id}/today : query
GET /v1/galleries/{gallery}/queries/{query_id}/image : query
POST /v1/galleries/{gallery}/queries/{query_id}/reviews : query
GET /v1/galleries/{gallery}/reviews : query
GET /v1/galleries/{gallery}/reviews.csv : query
POST /v1/galleries/{gallery}/cases : query
GET /v1/galleries/{gallery}/cases : query
GET /v1/galleries/{gallery}/cases/{case_id} : query
PATCH /v1/galleries/{gallery}/cases/{case_id} : query
DELETE /v1/galleries/{gallery}/cases/{case_id} : query
PUT /v1/galleries/{gallery}/cases/{case_id}/queries/{query_id} : query
DELETE /v1/galleries/{gallery}/cases/{case_id}/queries/{query_id} : query
GET /v1/galleries/{gallery}/cases/{case_id}/export : query
POST /v1/galleries/{gallery}/imports : enroll
POST /v1/galleries/{gallery}/groups : admin
GET /v1/galleries/{gallery}/groups : query
GET /v1/galleries/{gallery}/groups/count : query
GET /v1/galleries/{gallery}/groups/{group_id}/visits : query
GET /v1/galleries/{gallery}/identities/{identity}/visits : query
POST /v1/galleries/{gallery}/visits : query
POST /v1/galleries/{gallery}/reindex : admin
DELETE /v1/galleries/{gallery}/imports/{job_id}/crops : admin
POST /v1/galleries/{gallery}/exports : admin
GET /v1/galleries/{gallery}/exports : admin
GET /v1/galleries/{gallery}/exports/{export_id} : admin
GET /v1/galleries/{gallery}/exports/{export_id}/content : admin
DELETE /v1/galleries/{gallery}/exports/{export_id} : admin
POST /v1/sightings : sight any
GET /v1/cameras : query sight any
POST /v1/cameras/{camera}/heartbeat : sight any
PUT /v1/cameras/{camera}/zones : admin any
POST /v1/cameras/{camera}/still : admin any
PUT /v1/cameras/{camera}/still : sight any
GET /v1/cameras/{camera}/still : admin any
PUT /v1/galleries/{gallery}/watch : admin
GET /v1/galleries/{gallery}/watch : query
GET /v1/galleries/{gallery}/watch/passages : query
PATCH /v1/galleries/{gallery}/watch : admin
DELETE /v1/galleries/{gallery}/watch : admin
PUT /v1/galleries/{gallery}/watch/reviews : admin
GET /v1/alerts : query any
GET /v1/alerts/events : query any
GET /v1/alerts/{alert_id} : query any
GET /v1/alerts/{alert_id}/image : query any
GET /v1/alerts/{alert_id}/signed-image : signed
POST /v1/alerts/{alert_id}/review : query any
POST /v1/webhooks : admin any
GET /v1/webhooks : admin any
PATCH /v1/webhooks/{webhook_id} : admin any
DELETE /v1/webhooks/{webhook_id} : admin any
POST /v1/webhooks/{webhook_id}/rotate : admin any
POST /v1/webhooks/{webhook_id}/test : admin any
GET /v1/webhooks/deliveries : admin any
POST /v1/webhooks/deliveries/{delivery_id}/retry : admin any
"""
KEYS = (None, "query", "enroll", "sight", "delete", "metrics", "admin", "lobby")
METHODS = {"get", "post", "put", "patch", "delete"}


def rows():
    calls = (line.split(" : ") for line in TABLE.strip().splitlines())
    return {tuple(call.split()): set(scopes.split()) for call, scopes in calls}


@pytest.fixture
def gallery(guarded):
    made = guarded.ask("POST", "/v1/galleries", "admin", data={"name": "table"})
    assert made.status_code == 201
    return "table"


def test_every_call_of_the_document_has_a_row(guarded):
    paths = guarded.ask("GET", "/openapi.json").json()["paths"]
    calls = {
        (method.upper(), path) for path, some in paths.items() for method in some.keys() & METHODS
    }
    assert calls - {("GET", "/openapi.json")} == set(rows())


@pytest.mark.promise("6")
def test_each_call_answers_each_key_as_its_row_says(guarded, gallery):
    wrong = []
    for (method, path), needed in rows().items():
        # A gallery is deleted by a name that there is none of.
        name = "none" if (method, path) == ("DELETE", "/v1/galleries/{gallery}") else gallery
        place = re.sub(r"{\w+}", "none", path.replace("{gallery}", name))
        for key in KEYS:
            status = guarded.status(method, place, key)
            if "open" in needed:
                right = status == 200
            elif key is None or "signed" in needed:
                right = status == 401
            elif (key == "lobby" and "any" in needed) or key == "admin" or key in needed:
                right = status not in (401, 403)
            else:
                right = status == 403
            if not right:
                wrong.append((method, path, key, status))
    assert wrong == []
