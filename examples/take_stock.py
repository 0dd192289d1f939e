"""The functions of take_stock.yaml: their arguments and their values are JSON."""

import ast
from pathlib import Path


def longest_files(folder: str, suffix: str, most: int) -> list[dict[str, object]]:
    """Return the longest files of a folder, longest first."""
    paths = [
        path
        for path in Path(folder).rglob(f"*{suffix}")
        if not any(part.startswith(".") for part in path.parts)
    ]
    lines = {path: len(path.read_bytes().splitlines()) for path in paths}
    longest = sorted(lines, key=lambda path: (-lines[path], path))[:most]
    return [{"file": str(path), "lines": lines[path]} for path in longest]


def parse_all(folders: list[str]) -> dict[str, int]:
    """Parse every Python file; a syntax error fails the task. Printed lines are its progress."""
    parsed = 0
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.py")):
            ast.parse(path.read_bytes(), filename=str(path))
            parsed += 1
        print(f"{folder} is good", flush=True)  # noqa: T201 - shown while the task runs
    return {"files": parsed}


def summarise(dependencies: dict[str, object]) -> str:
    """Return one paragraph about the results of the other tasks."""
    longest = dependencies["longest"]
    syntax = dependencies["syntax"]
    assert isinstance(longest, list)
    assert isinstance(syntax, dict)
    first = longest[0]
    return (
        f"All {syntax['files']} files of the services can be parsed. "
        f"The longest file is {first['file']} with {first['lines']} lines."
    )
