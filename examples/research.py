"""The functions of research.yaml: their arguments and their values are JSON."""

import ast
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

from orchestrator_svc.agents.corpus.index import IndexCache
from orchestrator_svc.agents.corpus.research import investigate

_SHORT = 0.05  #: seconds that the experiments wait
_SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__"}


def ask(question: str, most: int = 3) -> str:
    """Return what the documents of the standard library say, with file and line."""
    folder = Path(tempfile.gettempdir()) / "ramify-research"
    folder.mkdir(exist_ok=True)
    with IndexCache().open("stdlib", folder) as index:
        found = investigate(index, question, ()).excerpts[:most]
    if not found:
        raise LookupError(f"the documents have no answer to: {question}")
    quotes = [f"- {' '.join(e.text.split())} ({e.section.path}:{e.start})" for e in found]
    return f"{question}\n\n" + "\n".join(quotes)


def functions_with(parameter: str, dependencies: dict[str, str]) -> dict[str, object]:
    """Return how many functions have a parameter, and what it is if the caller says nothing."""
    defaults: dict[str, int] = {}
    places: list[str] = []
    for path, tree in _modules(Path(dependencies["library"]), parameter):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                found = dict(_defaults(node.args))
                if parameter in found:
                    defaults[found[parameter]] = defaults.get(found[parameter], 0) + 1
                    places.append(f"{node.name} ({path}:{node.lineno})")
    common = sorted(defaults.items(), key=lambda item: (-item[1], item[0]))
    return {"functions": len(places), "defaults": dict(common[:5]), "first": places[:5]}


def exceptions_named(part: str, dependencies: dict[str, str]) -> list[str]:
    """Return the exceptions whose names have a part, with the place of each."""
    return [
        f"{node.name} ({path}:{node.lineno})"
        for path, tree in _modules(Path(dependencies["library"]), part)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and part in node.name and node.bases
    ]


def try_threads() -> dict[str, str]:
    """Wait in three ways for what never comes, and return what each does."""
    future: Future[None] = Future()
    return {
        "queue.Queue().get": _outcome(lambda: queue.Queue[None]().get(timeout=_SHORT)),
        "threading.Event().wait": _outcome(lambda: threading.Event().wait(_SHORT)),
        "Future().result": _outcome(lambda: future.result(_SHORT)),
    }


def try_process() -> dict[str, str]:
    """Wait for a process that takes too long, and return what happens."""
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    return {"subprocess.run": _outcome(lambda: subprocess.run(command, timeout=_SHORT))}


def answer(dependencies: dict[str, object]) -> str:
    """Return the answer, made of what the other tasks have found."""
    found, exceptions = dependencies["parameters"], dependencies["exceptions"]
    tried = [dependencies["threads"], dependencies["processes"]]
    assert isinstance(found, dict)
    assert isinstance(exceptions, list)
    defaults = ", ".join(f"{value} in {times}" for value, times in found["defaults"].items())
    text = [
        f"{found['functions']} functions take a timeout, for example {found['first'][0]}.",
        f"What it is if the caller says nothing: {defaults}.",
        f"Exceptions of its own: {', '.join(exceptions)}.",
        "Tried out:",
    ]
    for outcomes in tried:
        assert isinstance(outcomes, dict)
        text += [f"- {call} {outcome}" for call, outcome in outcomes.items()]
    return "\n".join(text)


def _outcome(wait: Callable[[], object]) -> str:
    try:
        return f"returns {wait()!r}"
    except Exception as error:
        kind = type(error)
        return f"raises {kind.__module__}.{kind.__name__}".replace("builtins.", "")


def _modules(library: Path, word: str) -> Iterator[tuple[str, ast.Module]]:
    """Yield the modules of the library that have a word in them; say how far it has come."""
    folder = ""
    for path in sorted(library.rglob("*.py")):
        name = path.relative_to(library)
        if _SKIPPED.intersection(name.parts):
            continue
        if folder != (folder := name.parts[0]):
            print(f"reading {folder}")  # noqa: T201 - shown while the task runs
        source = path.read_bytes()
        if word.encode() in source:
            yield name.as_posix(), ast.parse(source)


def _defaults(arguments: ast.arguments) -> Iterator[tuple[str, str]]:
    """Yield every parameter with its default as it is written."""
    plain = [*arguments.posonlyargs, *arguments.args]
    padding: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    defaults = [*padding, *arguments.defaults, *arguments.kw_defaults]
    for argument, default in zip([*plain, *arguments.kwonlyargs], defaults, strict=True):
        yield argument.arg, ast.unparse(default) if default is not None else "needed"
