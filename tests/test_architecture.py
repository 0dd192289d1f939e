"""The arrows between packages (STYLE §2), read from the imports of every hand-written file."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1]
_SERVICES = ("state_svc", "orchestrator_svc")
_MAX_LINES = 600

#: What a package may import of its own service, besides itself and the basic files. Whoever
#: adds an arrow here has to say why in the review: it is the architecture.
_ARROWS: dict[str, dict[str, str]] = {
    "state_svc": {
        "model": "",
        "storage": "",
        "lease": "",
        "codec": "model storage",
        "store": "codec model storage failpoints",
        "history": "store codec model storage failpoints",
        "ingest": "store codec model failpoints metrics",
        "payload": "store codec model failpoints metrics",
        "watch": "history store codec model storage metrics",
        "admin": "history store codec model storage lease",
        "config": "model",  # presets are the same for the service and for a project
        "metrics": "ingest store",  # for the types of what is counted only
        "service": "ingest watch history payload lease store codec model metrics",
        "rpc": "service admin ingest watch history payload lease store codec model storage metrics",
    },
    "orchestrator_svc": {
        "graph": "",
        "agents": "graph logs",
        "models": "graph",
        "settings": "graph",
        "publish": "graph settings metrics identity logs aside",
        "engine": "agents models publish graph metrics logs aside",
        "rpc": "engine agents publish graph settings config metrics logs",
        "metrics": "",
        "aside": "",  # what takes long has its one thread, wherever it is
        "identity": "",
        "logs": "",
        "config": "agents graph settings models",
    },
}
#: Files that any package may import.
_BASIC = {"errors", "__version__"}
#: They build the whole: no arrow binds them.
_COMPOSERS = {"app", "__main__"}
_PURE = ("state_svc/model", "orchestrator_svc/graph")
_IMPURE_MODULES = {
    "asyncio",
    "concurrent",
    "grpc",
    "logging",
    "multiprocessing",
    "os",
    "pathlib",
    "random",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
    "threading",
    "time",
}
#: Libraries whose loading is a good part of a start, and which only some runs or commands need.
_LOADED_WHEN_NEEDED = {
    "state_svc": "rich typer state_svc.admin.commands",
    "orchestrator_svc": "aiohttp networkx rich typer",
}
_STORES = {"sqlite": "SqliteStore", "memory": "MemoryStore"}


def _is_generated(path: Path) -> bool:
    return path.name.endswith(("_pb2.py", "_pb2_grpc.py"))


@cache
def _files(folder: str) -> tuple[Path, ...]:
    found = (_ROOT / folder).rglob("*.py")
    return tuple(sorted(path for path in found if not _is_generated(path)))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _imports(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything a file imports."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _package(path: Path) -> str:
    """Return the package of a file inside its service, or the file if it lies at the top."""
    return path.relative_to(_ROOT).with_suffix("").parts[1]


def _shown(path: Path) -> str:
    return str(path.relative_to(_ROOT))


def test_there_is_something_to_check() -> None:
    for service in _SERVICES:
        assert len(_files(service)) > 30


@pytest.mark.parametrize("service, other", [_SERVICES, _SERVICES[::-1]])
def test_a_service_never_imports_the_other(service: str, other: str) -> None:
    wrong = [
        f"{_shown(path)} imports {name}"
        for path in _files(service)
        for name in _imports(path)
        if name.split(".")[0] == other
    ]
    assert wrong == []


@pytest.mark.parametrize("service", _SERVICES)
def test_a_service_knows_the_contract_of_the_clients_and_nothing_else_of_them(
    service: str,
) -> None:
    wrong = [
        f"{_shown(path)} imports {name}"
        for path in _files(service)
        for name in _imports(path)
        if name.split(".")[0] == "ramify" and not f"{name}.".startswith("ramify.v1.")
    ]
    assert wrong == []


def test_the_clients_import_no_service() -> None:
    wrong = [
        f"{_shown(path)} imports {name}"
        for path in _files("clients/python/ramify")
        for name in _imports(path)
        if name.split(".")[0] in _SERVICES
    ]
    assert wrong == []


@pytest.mark.parametrize("service", _SERVICES)
def test_packages_import_only_what_their_arrows_allow(service: str) -> None:
    arrows = _ARROWS[service]
    wrong = []
    for path in _files(service):
        package = _package(path)
        if package in _COMPOSERS:
            continue
        allowed = {package, *_BASIC, *arrows.get(package, "").split()}
        for name in _imports(path):
            parts = name.split(".")
            if parts[0] == service and len(parts) > 1 and parts[1] not in allowed:
                wrong.append(f"{_shown(path)} imports {name}")
    assert wrong == []


def test_ingest_and_watch_do_not_know_each_other() -> None:
    for package, other in (("ingest", "watch"), ("watch", "ingest")):
        names = {name for path in _files(f"state_svc/{package}") for name in _imports(path)}
        assert not [name for name in names if name.startswith(f"state_svc.{other}")]


@pytest.mark.parametrize("folder", _PURE)
def test_the_core_imports_nothing_that_does_io_or_reads_a_clock(folder: str) -> None:
    wrong = [
        f"{_shown(path)} imports {name}"
        for path in _files(folder)
        for name in _imports(path)
        if name.split(".")[0] in _IMPURE_MODULES
    ]
    assert wrong == []


@pytest.mark.parametrize("folder", _PURE)
def test_the_core_never_waits_and_opens_no_file(folder: str) -> None:
    waits = (ast.Await, ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith)
    wrong = []
    for path in _files(folder):
        for node in ast.walk(_tree(path)):
            called = node.func if isinstance(node, ast.Call) else None
            opens = isinstance(called, ast.Name) and called.id in ("open", "print", "input")
            if isinstance(node, waits) or opens:
                wrong.append(f"{_shown(path)}:{getattr(node, 'lineno', 0)}")
    assert wrong == []


def test_only_the_composition_root_and_the_admin_commands_name_a_store() -> None:
    allowed = {"state_svc/app.py", "state_svc/admin/__main__.py"}
    wrong = [
        f"{_shown(path)} imports {name}"
        for path in _files("state_svc")
        for name in _imports(path)
        if name.split(".")[-1] in _STORES.values()
        and _shown(path) not in allowed
        and not _shown(path).startswith("state_svc/store/")
    ]
    assert wrong == []


@pytest.mark.parametrize("folder", [*_SERVICES, "clients/python/ramify", "tests", "scripts"])
def test_a_hand_written_file_stays_short(folder: str) -> None:
    lengths = {_shown(path): len(path.read_text("utf-8").splitlines()) for path in _files(folder)}
    assert {name: length for name, length in lengths.items() if length >= _MAX_LINES} == {}


@pytest.mark.parametrize("service, spared", _LOADED_WHEN_NEEDED.items())
def test_a_service_starts_without_what_few_runs_need(service: str, spared: str) -> None:
    code = f"import sys, {service}.__main__; print(*set({spared.split()}) & set(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=_ROOT
    )
    assert loaded.stdout.split() == []
