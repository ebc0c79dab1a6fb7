"""Feature files that a client sent are read in bounded memory."""

import io
import zipfile

import numpy as np
import pytest

from model.feature_file import MOST_ROWS, read_sent
from model.problems import InputProblem


@pytest.fixture
def written(tmp_path):
    """Return a function that writes arrays of ones by their types and shapes."""

    def write(**headers):
        path = tmp_path / "features.npz"
        with zipfile.ZipFile(path, "w") as archive:
            for name, (kind, shape) in headers.items():
                member = io.BytesIO()
                header = {"descr": kind, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(member, header)
                if kind == "<f4":
                    member.write(np.ones(shape, kind).tobytes())
                archive.writestr(f"{name}.npy", member.getvalue())
        return path

    return write


@pytest.mark.parametrize(
    ("headers", "words"),
    [
        ({"features": ("<f4", (MOST_ROWS + 1, 1))}, "has 65,537 features, over the limit"),
        # Empty texts take no bytes of the file.
        (
            {"features": ("<f4", (2, 4)), "identities": ("<U0", (10**9,))},
            "has more identities than the limit of 65,536",
        ),
        ({"features": ("<f4", (2, 4)), "paths": ("<U0", (1,))}, "lacks paths of its crops"),
    ],
    ids=["too many features", "too many empty texts", "too few empty texts"],
)
def test_a_file_of_too_many_or_too_few_rows_is_refused(written, headers, words):
    with pytest.raises(InputProblem, match=words):
        read_sent(written(**headers), most_bytes=10**7)
