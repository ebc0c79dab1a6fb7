"""One of everything that is kept, done by a recorded service, with when each was acknowledged."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import DrawnCrop
from tests.outside import zip_of_crops
from tests.power_cut.acts import Act
from tests.power_cut.shown import IMPORTED, asked_in_audit, shown_by, wait_for_jobs
from tests.service.conftest import Served


@dataclass
class Story:
    """Do one operation after another, and note the shown state before and after each."""

    served: Served
    data_dir: Path
    crops: Sequence[DrawnCrop]
    acts: list[Act] = field(default_factory=list)
    key: str = ""

    def tell(self) -> None:
        """Everything, once; a snapshot's rewriting and an import among it."""
        served = self.served
        crops = self.crops
        lobby = "/v1/galleries/lobby"
        self._act("create gallery", lambda: _done(served.create("lobby")))
        enrolled = self._enroll("enrol", *crops[:6], names="aabbcd")
        self._act("delete", lambda: self._ask("DELETE", f"{lobby}/crops/{enrolled[0]}"))
        self._act("retention", lambda: self._ask("PATCH", lobby, data={"retention_days": "900"}))
        first = self._act("snapshot", lambda: self._ask("POST", f"{lobby}/snapshots"))
        self._act(
            "rename",
            lambda: self._ask("PATCH", f"{lobby}/identities/c", data={"new_identity": "x"}),
        )
        self._act("forget", lambda: self._ask("DELETE", f"{lobby}/identities/b"))
        # By now only a snapshot knows of them.
        self._act("forget in a snapshot", lambda: self._ask("DELETE", f"{lobby}/identities/c"))
        self._enroll("enrol again", *crops[6:9], names="eee")
        self._act("import", self._import)
        self._act("second snapshot", lambda: self._ask("POST", f"{lobby}/snapshots"))
        self._act(
            "restore",
            lambda: self._ask("POST", f"{lobby}/snapshots/{first['snapshot_id']}/restore"),
        )
        self._act(
            "delete snapshot",
            lambda: self._ask("DELETE", f"{lobby}/snapshots/{first['snapshot_id']}"),
        )
        self._act("second gallery", lambda: _done(served.create("yard")))
        self._enroll("enrol there", *crops[9:11], names="yz", gallery="yard")
        self._act("delete gallery", lambda: self._ask("DELETE", "/v1/galleries/yard"))
        key_id = self._act("create key", self._create_key)
        self._act("revoke key", lambda: self._keys("revoke", key_id))

    def _act(self, name: str, do: Callable[[], Any]) -> Any:
        before = self.acts[-1].after if self.acts else shown_by(self.served.http, self.data_dir)
        begun = time.monotonic_ns()
        answer = do()
        acknowledged = time.monotonic_ns()
        asked = asked_in_audit(self.data_dir)
        if name == "import":
            wait_for_jobs(self.served.http)
        if name == "create key":
            self.served.http.headers["Authorization"] = f"Bearer {self.key}"
        if name == "revoke key":
            self._wait_until_open()
        after = shown_by(self.served.http, self.data_dir)
        self.acts.append(Act(name, begun, acknowledged, before, after, asked))
        return answer

    def _wait_until_open(self) -> None:
        self.served.http.headers.pop("Authorization", None)
        until = time.monotonic() + 10
        while self.served.http.get("/v1/galleries").status_code != 200:
            assert time.monotonic() < until
            time.sleep(0.05)

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        answer = self.served.http.request(method, path, **more)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    def _enroll(
        self, name: str, *crops: DrawnCrop, names: str, gallery: str = "lobby"
    ) -> list[str]:
        def enroll() -> list[str]:
            answer = self.served.enroll(
                gallery,
                *(crop.png for crop in crops),
                identity=list(names),
                camera=[crop.camera for crop in crops],
            )
            assert answer.status_code == 201, answer.text
            return [result["crop_id"] for result in answer.json()["results"]]

        landed: list[str] = self._act(name, enroll)
        return landed

    def _import(self) -> None:
        answer = self.served.http.post(
            "/v1/galleries/lobby/imports",
            files={"archive": ("crops.zip", zip_of_crops(self.crops[11:15]))},
            data={"identity": IMPORTED},
        )
        assert answer.status_code == 202, answer.text

    def _create_key(self) -> str:
        said = self._keys("create", "--scope", "admin")
        found = re.search(r"Key ([0-9a-f]+):.* (gmn_\S+)", said, re.DOTALL)
        assert found, said
        self.key = found[2]
        return found[1]

    def _keys(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "gmn", "keys", *arguments, "--data-dir", self.data_dir]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout


def _done(_: object) -> None:
    return None
