"""Packages import only the packages that they may: data flows one way."""

import ast
import functools
import graphlib
import itertools
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    *("gmn_client", "gmn_camera", "model", "training", "service", "demo", "bench"),
    *("gmn", "gmn_reid"),
)
HTTP = ("fastapi", "starlette", "uvicorn", "httpx2")
STORAGE = ("sqlite3", "redis", "faiss")
ROUTES = (
    *("service/http", "service/desk/routes", "service/doubtful/routes.py"),
    *("service/store/routes.py", "service/visits/routes.py", "service/watch/routes"),
)
TABLES = (
    *("service/desk/tables.py", "service/doubtful/tables.py"),
    *("service/postgres", "service/visits/tables.py", "service/watch/tables"),
)
MODELS = ("torch", "torchvision", "model.artefact", "model.embedder", "model.metric_network")
MODEL_BESIDES_OPENVINO = tuple(
    f"model.{source.stem}"
    for source in sorted((ROOT / "model").iterdir())
    if source.stem not in ("openvino_loading", "wording", "yolox")
)
# Each tells the whole story of something that a gallery does not need.
SLICES = (
    *("service.desk", "service.doubtful", "service.milvus"),
    *("service.postgres", "service.store", "service.visits", "service.watch"),
)
# These put the core and the slices together.
COMPOSITIONS = ("app", "forgetting", "maintenance", "opening", "remainders")
ABOVE_THE_CORE = (*SLICES, *(f"service.{name}" for name in COMPOSITIONS))
OF_TABLES = (*HTTP, *MODELS, "service.engine", "service.gallery", "service.links")
KNOWS_NOTHING_OF = {
    "gmn_client": (
        *("gmn_camera", "model", "training", "service", "demo", "bench", "gmn"),
        *("torch", "numpy", "PIL", "fastapi"),
    ),
    # Programs that call the client need not have what its commands print with.
    **{
        source.relative_to(ROOT).as_posix(): ("gmn_client.commands", "typer", "rich")
        for source in sorted((ROOT / "gmn_client").glob("*.py"))
    },
    # It runs beside a camera, where only the client and OpenVINO are, and plain functions.
    "gmn_camera": (
        *MODEL_BESIDES_OPENVINO,
        *("training", "service", "demo", "bench", "gmn", "torch"),
        *("fastapi", "starlette", "uvicorn", *STORAGE),
    ),
    # The help, and the process that only starts and stops those of the cameras, load quickly.
    **{
        f"gmn_camera/{name}.py": ("av", "numpy", "openvino", "PIL")
        for name in ("address", "command", "figures", "log", "processes", "service", "settings")
    },
    "model": ("gmn_client", "gmn_camera", "training", "service", "demo", "bench", "gmn", *HTTP),
    "model/crops": MODELS,
    "training": ("gmn_client", "gmn_camera", "service", "demo", "bench", "gmn", *HTTP),
    "training/datasets": MODELS,
    "training/losses": (
        *("model.artefact", "model.embedder", "model.backbones", "training.recipe"),
        *("training.networks", "training.step", "training.datasets", "training.evaluation"),
    ),
    # A report reads of a recipe which settings decide, and whose paper's row they are.
    "training/evaluation": ("training.train", "training.losses"),
    "service": ("gmn_camera", "training", "demo", "bench", "gmn"),
    "service/engine": (*HTTP, *STORAGE, "service.record", "service.gallery", *ABOVE_THE_CORE),
    "service/record": (*OF_TABLES, *ABOVE_THE_CORE),
    **dict.fromkeys(TABLES, OF_TABLES),
    "service/search": (*HTTP, "sqlite3", "redis", "service.runtime", *ABOVE_THE_CORE),
    "service/index": (
        *(*HTTP, "sqlite3", "redis", "service.gallery", "service.search"),
        *ABOVE_THE_CORE,
    ),
    "service/milvus": (*HTTP, *STORAGE, *MODELS, "service.engine", "service.gallery"),
    "service/gallery": (
        *(*HTTP, *STORAGE, *MODELS, "service.search", "service.runtime"),
        *ABOVE_THE_CORE,
    ),
    "service/links.py": ABOVE_THE_CORE,
    "service/jobs": (*HTTP, *STORAGE, "torch"),
    "service/api_keys.py": (*HTTP, *STORAGE, *MODELS),
    **dict.fromkeys(ROUTES, (*STORAGE, "torch", "service.engine", "service.index.gallery_index")),
}
# All commands make their consoles and progress bars by one file.
EXCEPT = {"training/commands": "gmn_client.commands.terminal"}
# Packages besides the standard library's that the client's commands may import.
CLIENT_COMMANDS_IMPORT = {
    *("gmn_client", "mcp", "mcp_types", "pydantic", "pydantic_core", "rich", "typer"),
    "typing_extensions",
}
IMPORT_BOTH = {"gmn.py", "demo", "bench"}


def sources(room):
    place = ROOT / room
    return [place] if place.suffix else sorted(place.rglob("*.py"))


@functools.cache
def imported(source):
    """Return every module that a file names, also inside functions.

    A library that only type checkers import need not be installed, and does not count.
    """
    names = set()
    tree = ast.parse(source.read_text(encoding="utf-8"))
    checked = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in branch.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in ROOMS
    }
    for node in ast.walk(tree):
        if node in checked:
            continue
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: imports are absolute here"
            names.add(node.module or "")
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def within(name, module):
    return name == module or name.startswith(f"{module}.")


def is_an_exception(source, name):
    return any(
        source.is_relative_to(ROOT / room) and within(name, module)
        for room, module in EXCEPT.items()
    )


@pytest.mark.parametrize("room", KNOWS_NOTHING_OF)
def test_a_room_imports_nothing_that_it_should_not_know(room):
    itself = room.removesuffix(".py").replace("/", ".")
    for source in sources(room):
        for name in imported(source):
            if within(name, itself) or is_an_exception(source, name):
                continue
            for module in KNOWS_NOTHING_OF[room]:
                assert not within(name, module), f"{source.relative_to(ROOT)} imports {name}"


def test_only_the_command_line_the_demo_and_the_benches_join_trainer_and_service():
    joining = {
        source.relative_to(ROOT).parts[0]
        for room in ROOMS
        for source in sources(room if (ROOT / room).is_dir() else f"{room}.py")
        if any(within(name, "training") for name in imported(source))
        and any(within(name, "service") for name in imported(source))
    }
    assert joining <= IMPORT_BOTH


def test_only_the_application_and_its_process_import_what_answers_by_http():
    importing = {
        source.relative_to(ROOT).as_posix()
        for source in sources("service")
        if not any(source.is_relative_to(ROOT / routes) for routes in ROUTES)
        and any(within(name, "service.http") for name in imported(source))
    }
    assert importing == {"service/app.py", "service/commands/processes.py"}


def test_the_commands_of_the_client_import_the_client_and_what_they_print_with():
    for source in sources("gmn_client/commands"):
        packages = {name.partition(".")[0] for name in imported(source)}
        assert packages <= CLIENT_COMMANDS_IMPORT | sys.stdlib_module_names, source


def test_the_service_takes_options_and_tables_alone_from_the_commands_of_the_client():
    modules = ("gmn_client.commands.common", "gmn_client.commands.parameters")
    for source in sources("service"):
        names = {name for name in imported(source) if within(name, "gmn_client.commands")}
        assert "command" in source.relative_to(ROOT).as_posix() or not names, source
        for name in names:
            assert any(within(name, module) for module in modules), source


def test_no_call_of_the_service_blocks_on_a_thread_that_others_need():
    """asyncio's own threads have no name, no health check, and one bound for all work together."""
    for source in sources("service"):
        text = source.read_text(encoding="utf-8")
        assert not re.search(r"\bto_thread\b|run_in_executor\(\s*None", text), source


def test_the_rooms_of_these_rules_are_there():
    assert [room for room in KNOWS_NOTHING_OF if not (ROOT / room).exists()] == []


def import_circle(files):
    """Find Python files of which each imports the next, and the last is the first again.

    Args:
        files: their texts, by path below the folder that modules are imported from.

    Returns:
        The paths of one circle; empty if there is none.
    """
    modules = {module_name(path): path for path in files}
    imports = {}
    for path in modules.values():
        names = imported_modules(files[path], modules)
        imports[path] = {modules[name] for name in names} - {path}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        # graphlib lists an imported file before the file that imports it.
        return tuple(reversed(error.args[1]))
    return ()


def module_name(path):
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def imported_modules(text, modules):
    """Yield the modules that a file imports at any depth; `from a import b` may import a.b."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                if submodule in modules:
                    yield submodule
                elif node.module in modules:
                    yield node.module


def test_a_circle_is_found_in_functions_for_types_alone_and_through_a_package():
    files = {
        "a/__init__.py": "",
        "a/one.py": "def f():\n    from a import two\n",
        "a/two.py": "if TYPE_CHECKING:\n    from a.three import T\n",
        "a/three.py": "import a.one, os\n",
        "a/four.py": "from a.one import f\nfrom a import VERSION\n",
    }
    circle = import_circle(files)
    assert set(circle) == {"a/one.py", "a/three.py", "a/two.py"}
    assert (circle[0], len(circle)) == (circle[-1], 4)
    assert ("a/one.py", "a/two.py") in itertools.pairwise(circle)
    assert import_circle(files | {"a/three.py": "import a, os\n"}) == ()


def test_no_files_import_each_other():
    """Code that two files need of each other belongs in a third one below both."""
    files = {
        source.relative_to(ROOT).as_posix(): source.read_text(encoding="utf-8")
        for room in (*ROOMS, "tests")
        for source in sources(room if (ROOT / room).is_dir() else f"{room}.py")
    }
    assert import_circle(files) == ()
