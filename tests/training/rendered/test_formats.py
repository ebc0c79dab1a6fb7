"""The text formats of MakeHuman's assets, read from small files written here."""

import json

import numpy as np
import pytest

from training.rendered.packing.formats import (
    AssetProblem,
    parse_fitted_mesh,
    parse_mesh,
    parse_rig,
    parse_target,
    parse_weights,
)

SQUARE = """# a comment
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
g body
f 1/1 2/2 3/3 4/4
g helper-skirt
f 1 2 3 3
"""
SHIRT = """name shirt
obj_file shirt.obj
x_scale 0 1 2.0
verts 0
material shirt.mhmat
3
0 1 2 0.5 0.25 0.25 0.1 0.0 0.2

delete_verts
0 2 - 3
"""


def test_a_face_of_four_corners_becomes_two_triangles_and_one_without_area_is_left_out():
    mesh = parse_mesh(SQUARE, "square.obj")
    np.testing.assert_array_equal(mesh.points[2], (1, 1, 0))
    assert mesh.group("body").tolist() == [[0, 1, 2], [0, 2, 3]]
    assert mesh.group("helper-skirt").tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("v 0 0\nv 1 0\nv 1 1\nf 1 2 3\n", "three numbers"),
        ("v 0 0 zero\n", "line 1"),
        ("v 0 0 0\nv 1 0 0\nv 1 1 0\nf 1 2 4\n", "lacks"),
        ("version https://git-lfs.github.com/spec/v1\n", "no points"),
    ],
)
def test_what_is_no_mesh_is_refused_with_its_name(text, fault):
    with pytest.raises(AssetProblem, match=rf"torn\.obj.*{fault}"):
        parse_mesh(text, "torn.obj")


def test_a_target_moves_the_points_that_it_names():
    moves = parse_target("# targets\n1 .5 -1 0\n", "tall.target", 3)
    assert moves.tolist() == [[0, 0, 0], [0.5, -1, 0], [0, 0, 0]]


@pytest.mark.parametrize("line", ["3 0 0 0", "-1 0 0 0", "0 0 0", "0 0 0 far"])
def test_a_target_for_another_body_is_refused_with_its_line(line):
    with pytest.raises(AssetProblem, match=r"tall\.target, line 2"):
        parse_target(f"0 0 0 0\n{line}\n", "tall.target", 3)


def test_a_garment_follows_the_body_and_its_offsets_grow_with_it():
    fitted, mesh_file = parse_fitted_mesh(SHIRT, "shirt.mhclo", 4)
    body = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]], np.float32)
    np.testing.assert_allclose(fitted.fit(body), [(0, 2, 0), (1.1, 0.5, 0.2)], atol=1e-6)
    # x_scale measures x between points 0 and 1, and no scale is given for z.
    wider = body * (2, 1, 1)
    np.testing.assert_allclose(fitted.fit(wider), [(0, 2, 0), (2.2, 0.5, 0.2)], atol=1e-6)
    assert fitted.hidden.tolist() == [0, 2, 3]
    assert mesh_file == "shirt.obj"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (("0 1 2 0.5", "0 1 9 0.5"), "line 7: point 9"),
        (("0.25 0.25 0.1", "0.25 0.1"), "line 7: 8 numbers"),
        (("obj_file shirt.obj\n", ""), "obj_file"),
    ],
)
def test_a_garment_for_another_body_is_refused(change, fault):
    with pytest.raises(AssetProblem, match=rf"shirt\.mhclo.*{fault}"):
        parse_fitted_mesh(SHIRT.replace(*change), "shirt.mhclo", 4)


def test_bones_of_one_column_share_their_weights_which_sum_to_one():
    rig = {
        "joints": {"root____head": [0, 1], "arm____head": [2], "hand____head": [3]},
        "bones": {
            "root": {"parent": None, "head": "root____head"},
            "arm": {"parent": "root", "head": "arm____head"},
            "hand": {"parent": "arm", "head": "hand____head"},
        },
    }
    bones = parse_rig(json.dumps(rig), "person.mhskel")
    assert bones["root"].parent is None
    assert bones["arm"].head.tolist() == [2]
    shares = {"root": [[0, 1], [1, 0.5]], "arm": [[1, 0.5], [2, 1]], "hand": [[2, 1], [3, 0.2]]}
    columns = {"root": 0, "arm": 1, "hand": 1}
    text = json.dumps({"weights": shares})
    weights = parse_weights(text, "person.mhw", columns, 4)
    np.testing.assert_allclose(weights, [(1, 0), (0.5, 0.5), (0, 1), (0, 1)])


def test_a_point_without_a_bone_and_a_file_of_another_kind_are_refused():
    shares = json.dumps({"weights": {"root": [[0, 1]]}})
    with pytest.raises(AssetProblem, match="point 1 has no weight"):
        parse_weights(shares, "person.mhw", {"root": 0}, 2)
    with pytest.raises(AssetProblem, match=r"person\.mhskel: is no rig"):
        parse_rig("{}", "person.mhskel")
    with pytest.raises(AssetProblem, match="is not JSON"):
        parse_rig("version https://git-lfs.github.com/spec/v1", "person.mhskel")
