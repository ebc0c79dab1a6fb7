"""One of everything that is kept, done by a recorded service, with when each was acknowledged."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import DrawnCrop
from tests.outside import zip_of_crops
from tests.power_cut.acts import Act
from tests.power_cut.shown import (
    IMPORTED,
    asked_in_audit,
    logged_deletions,
    shown_by,
    wait_for_jobs,
)
from tests.service.conftest import Served


@dataclass
class Story:
    """Do one operation after another, and note the shown state before and after each."""

    served: Served
    data_dir: Path
    crops: Sequence[DrawnCrop]
    acts: list[Act] = field(default_factory=list)
    key: str = ""

    def tell(self):
        crops = self.crops
        lobby = "/v1/galleries/lobby"
        self._send("create gallery", "POST", "/v1/galleries", data={"name": "lobby"})
        enrolled = self._enroll("enrol", *crops[:6], names="aabbcd")
        self._send("delete", "DELETE", f"{lobby}/crops/{enrolled[0]}")
        self._send("retention", "PATCH", lobby, data={"retention_days": "900"})
        first = self._send("export", "POST", f"{lobby}/exports")
        self._send("rename", "PATCH", f"{lobby}/identities/c", data={"new_identity": "x"})
        self._send("forget", "DELETE", f"{lobby}/identities/b")
        self._enroll("enrol again", *crops[6:9], names="eee")
        self._act("import", self._import)
        self._send("second export", "POST", f"{lobby}/exports")
        self._send("delete export", "DELETE", f"{lobby}/exports/{first['export_id']}")
        self._send("second gallery", "POST", "/v1/galleries", data={"name": "yard"})
        self._enroll("enrol there", *crops[9:11], names="yz", gallery="yard")
        self._send("delete gallery", "DELETE", "/v1/galleries/yard")
        key_id = self._act("create key", self._create_key)
        self._act("revoke key", lambda: self._keys("revoke", key_id))

    def _act(self, name, do):
        before = self.acts[-1].after if self.acts else shown_by(self.served.http, self.data_dir)
        begun = time.monotonic_ns()
        answer = do()
        acknowledged = time.monotonic_ns()
        asked = asked_in_audit(self.data_dir)
        logged = logged_deletions(self.data_dir)
        if name == "import":
            wait_for_jobs(self.served.http)
        if name == "create key":
            self.served.http.headers["Authorization"] = f"Bearer {self.key}"
        if name == "revoke key":
            self._wait_until_open()
        after = shown_by(self.served.http, self.data_dir)
        self.acts.append(Act(name, begun, acknowledged, before, after, asked, logged))
        return answer

    def _wait_until_open(self):
        self.served.http.headers.pop("Authorization", None)
        until = time.monotonic() + 10
        while self.served.http.get("/v1/galleries").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.05)

    def _send(self, name, method, path, **more):
        """Do an operation by one request, and return its answer."""

        def send():
            answer = self.served.http.request(method, path, **more)
            assert answer.is_success, answer.text
            return answer.json() if answer.content else None

        return self._act(name, send)

    def _enroll(self, name, *crops, names, gallery="lobby"):
        images = [crop.png for crop in crops]
        cameras = [crop.camera for crop in crops]
        return self._act(
            name,
            lambda: self.served.enrolled(gallery, *images, identity=list(names), camera=cameras),
        )

    def _import(self):
        answer = self.served.http.post(
            "/v1/galleries/lobby/imports",
            files={"archive": ("crops.zip", zip_of_crops(self.crops[11:15]))},
            data={"identity": IMPORTED},
        )
        assert answer.status_code == 202, answer.text

    def _create_key(self):
        said = self._keys("create", "--scope", "admin")
        found = re.search(r"Key ([0-9a-f]+):.* (gmn_\S+)", said, re.DOTALL)
        assert found, said
        self.key = found[2]
        return found[1]

    def _keys(self, *arguments):
        command = [sys.executable, "-m", "gmn", "keys", *arguments, "--data-dir", self.data_dir]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout
