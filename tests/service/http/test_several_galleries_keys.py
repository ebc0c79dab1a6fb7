"""Keys and queries of several galleries."""

from tests.service.conftest import files


def test_a_key_searches_the_galleries_that_it_may_see(guarded, drawn_crops):
    sent = {"files": files(drawn_crops[0].png)}
    for galleries in ("lobby,default", "default", "gone"):
        asked = {"galleries": galleries}
        refused = guarded.ask("POST", "/v1/queries", "lobby", data=asked, **sent)
        assert refused.status_code == 403
    fields = {"crop_id": "0" * 32, "gallery": "default", "galleries": "lobby"}
    assert guarded.ask("POST", "/v1/queries", "lobby", data=fields).status_code == 403
    assert guarded.ask("POST", "/v1/queries", "enroll", **sent).status_code == 403
    assert guarded.ask("POST", "/v1/queries", **sent).status_code == 401
    own = guarded.ask("POST", "/v1/queries", "lobby", **sent).json()
    assert [entry["gallery"] for entry in own["galleries"]] == ["lobby"]
    for call in ("queries", "visits"):
        for gallery in ("default", "gone"):
            fields = {"galleries": "lobby", "min_versions": f'{{"{gallery}": 1099511627776}}'}
            refused = guarded.ask("POST", f"/v1/{call}", "lobby", data=fields, **sent)
            assert refused.status_code == 422
            assert f"gallery '{gallery}' is not searched" in refused.json()["detail"]
    everything = guarded.ask("POST", "/v1/queries", "query", **sent).json()
    assert {"lobby", "default"} <= {entry["gallery"] for entry in everything["galleries"]}
