"""Runs the `buf curl` blocks of docs/recipes.md as they stand."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.bound import WAIT_SECONDS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "recipes.md"
_BLOCK = re.compile(r"^```sh buf(?P<marks>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^## (.*)$", re.MULTILINE)


@dataclass(frozen=True)
class Recipe:
    """One block."""

    section: str
    marks: frozenset[str]  #: `watch`, `fails`, `orchestrator`
    text: str


@dataclass(frozen=True)
class Answer:
    """What a block printed."""

    code: int
    output: str
    errors: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        """The JSON documents on stdout."""
        decoder, found, text = json.JSONDecoder(), [], self.output.strip()
        while text:
            document, end = decoder.raw_decode(text)
            found.append(document)
            text = text[end:].lstrip()
        return found


def read_recipes() -> list[Recipe]:
    """Return the blocks of the page, in order."""
    page = PAGE.read_text("utf-8")
    recipes = []
    for match in _BLOCK.finditer(page):
        heading = [m.group(1) for m in _HEADING.finditer(page, 0, match.start())][-1]
        recipes.append(Recipe(heading, frozenset(match["marks"].split()), match["text"]))
    return recipes


def run(recipe: Recipe, *, until: str = "", **addresses: str) -> Answer:
    """Run a block in a shell; one that does not end is ended once it has printed `until`."""
    bin_folder = Path(sys.executable).parent
    env = {**os.environ, **addresses, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    with subprocess.Popen(
        ["bash", "-c", recipe.text],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        printed = ""
        if until:
            for line in process.stdout:
                printed += line
                # A document ends in a line that is its closing brace.
                if line == "}\n" and until in printed:
                    break
            os.killpg(process.pid, signal.SIGTERM)
        try:
            output, errors = process.communicate(timeout=WAIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        # What was cut off in the middle of a document is no answer.
        return Answer(process.returncode, printed or output, errors)
