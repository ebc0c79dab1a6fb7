"""Artefacts that released versions shipped, so that one which is missing can be named."""

from __future__ import annotations

from typing import NamedTuple


class FormerArtefact(NamedTuple):
    """An artefact as a released version shipped it.

    Attributes:
        name: name that the version had for it.
        sha256: SHA-256 of the file.
        embedding_fingerprint: fingerprint of its embedder, which galleries store.
        version: the version; its git tag is a `v` and this.
    """

    name: str
    sha256: str
    embedding_fingerprint: str
    version: str = "0.5.0"

    @property
    def file(self) -> str:
        """The name of its file."""
        return f"{self.name}.safetensors"

    @property
    def command(self) -> str:
        """The command that writes the file, in a clone of the project."""
        return f"git show v{self.version}:model/artefacts/{self.file} > {self.file}"


FORMER_ARTEFACTS = (
    FormerArtefact(
        "bundled",
        "d807badf1ce9d9103328754f52d74d55ad8631c3a515e7e8f9750b2e2641f894",
        "71a6096288b9ee4922ce8cb1fbb43968b411eb2568961b46c1f4e4cf60534a6d",
    ),
    FormerArtefact(
        "bundled@1",
        "2e929e2155e637def37b599eca0dd55adc8de067666c0dcff77c9b89bc7a9f4a",
        "835a38390b14e98eb5303b8c3841cf287578cf9a6bd9a2c0410aab65b27a3b99",
    ),
    FormerArtefact(
        "bundled@2",
        "3eee2831a599f09284bcc3b94b185b07986009755973e3e15cf0513c80c65bf1",
        "6d9c4b425a5702b2cdce85c94c4a4709c297c86611ef16dcfe143f7509a3f77b",
    ),
    FormerArtefact(
        "open",
        "47e9fed013463d33d119df3b313bf96114e8ce95fba8a797fadeb917e8b8e80a",
        "6a2cbd2e6a48c320bd434a0d3b666af5ec6b1a8dc83e5e19b1abf190f60d1864",
    ),
    FormerArtefact(
        "small",
        "d2bd080ef0b1e0fe969d71ab8146f26308d3dc33f5606209a637ce1c58abdb12",
        "ade75ba3c5e0216d89967167ccb9199ebb825d24f7fe693e40474b12046a1b7a",
    ),
    FormerArtefact(
        "small-start",
        "d743c99c4e6bdd1c3efd5e5e7bedc2b10ef38dbaa2f67b992133da5dcffa9c1e",
        "1f5d0a3a595b20d9018306a449cf55b702c1202be46b6db3be75d7925c477c30",
    ),
    FormerArtefact(
        "small@1",
        "83b8ad80015275c0b582350b54ff349d5d7e4f661f59a5cf6f7897c4e69f9b8c",
        "b9bc8afab173d5b5cdbf565f128480ae94bdc893932d7c7af19cb6e76ab27d6e",
    ),
)


def find_former(embedding_fingerprint: str) -> FormerArtefact | None:
    """Return the released artefact of an embedder; None if no version shipped it."""
    for former in FORMER_ARTEFACTS:
        if former.embedding_fingerprint == embedding_fingerprint:
            return former
    return None
