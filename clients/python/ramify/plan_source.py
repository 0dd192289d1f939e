"""A plan file as text: where its parts are, and what is said about them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import yaml

MAX_DEPTH = 100  #: of what is nested in a file; groups have a lower limit of their own
MAX_VALUES = 1_000_000
MAX_REPORTED_PROBLEMS = 20

Place = tuple[str | int, ...]  #: keys and indices from the top of the file

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Mark(Protocol):
    @property
    def line(self) -> int: ...


@dataclass(frozen=True, slots=True)
class PlanProblem:
    """One reason why a plan file cannot be used."""

    path: Path
    text: str
    line: int = 0  #: from 1; 0: the whole file
    task: str = ""  #: id of the task that it is in

    def __str__(self) -> str:
        line = f":{self.line}" if self.line else ""
        task = f"task {self.task}: " if self.task else ""
        return f"{self.path}{line}: {task}{self.text}"


class PlanFileError(ValueError):
    """A plan file cannot be used; one line per problem, each with file and line."""

    def __init__(self, problems: Sequence[PlanProblem]) -> None:
        self.problems = tuple(problems)
        shown = [str(problem) for problem in problems[:MAX_REPORTED_PROBLEMS]]
        more = len(problems) - len(shown)
        super().__init__("\n".join(shown) + (f"\n{more} more problems" if more else ""))


class Source:
    """A file with the lines of its parts."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        try:
            self._measure(text)
            self._root = yaml.compose(text, Loader=_LOADER)
            self.document: object = yaml.load(text, Loader=_LOADER)
        except PlanFileError:
            raise
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            text = error.problem or error.context or "is no YAML"
            raise PlanFileError([PlanProblem(path, text, _line(mark))]) from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise PlanFileError([PlanProblem(path, " ".join(str(error).split()))]) from error

    def _measure(self, text: str) -> None:
        """Refuse what is nested too deep, or too large once every alias stands for its anchor.

        Of events alone: whatever builds a tree recurses, or never ends.
        """
        sizes: dict[str, int] = {}  #: by anchor
        open_nodes: list[tuple[str | None, int]] = []  #: anchors, and the sizes where they began
        size = 0
        for event in yaml.parse(text, Loader=_LOADER):
            problem = ""
            if isinstance(event, yaml.AliasEvent):
                name = str(event.anchor)
                if name in (anchor for anchor, _ in open_nodes):
                    problem = f"*{name} is a part of what it stands for"
                size += sizes.get(name, 1)
            elif isinstance(event, yaml.NodeEvent):
                size += 1
                if not isinstance(event, yaml.ScalarEvent):
                    open_nodes.append((event.anchor, size - 1))
            elif isinstance(event, yaml.CollectionEndEvent):
                anchor, begin = open_nodes.pop()
                if anchor is not None:
                    sizes[anchor] = size - begin
            if len(open_nodes) > MAX_DEPTH:
                problem = f"is nested deeper than {MAX_DEPTH} levels"
            if size > MAX_VALUES:
                problem = f"has more than {MAX_VALUES} values, with those that aliases repeat"
            if problem:
                raise PlanFileError([PlanProblem(self.path, problem, _line(event.start_mark))])

    def line(self, place: Place) -> int:
        """Return the line, from 1, of the deepest part of a place that the file has."""
        node = self._root
        found = node.start_mark.line if node is not None else 0
        for step in place:
            if isinstance(node, yaml.MappingNode):
                pairs = [pair for pair in node.value if pair[0].value == str(step)]
                if not pairs:
                    break
                found, node = pairs[-1][0].start_mark.line, pairs[-1][1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                if step >= len(node.value):
                    break
                node = node.value[step]
                found = node.start_mark.line
            else:
                break
        return found + 1

    def repeated_keys(self) -> Iterator[PlanProblem]:
        """Yield every key that a mapping has twice; YAML takes the last one."""
        stack = [self._root] if self._root is not None else []
        while stack:
            node = stack.pop()
            if isinstance(node, yaml.MappingNode):
                seen: set[str] = set()
                for key, value in node.value:
                    if key.value in seen:
                        said = f"{key.value!r} is there twice"
                        yield PlanProblem(self.path, said, _line(key.start_mark))
                    seen.add(key.value)
                    stack.append(value)
            elif isinstance(node, yaml.SequenceNode):
                stack += node.value

    def problem(self, place: Place, text: str) -> PlanProblem:
        """Return a problem with its file, line and task."""
        return PlanProblem(self.path, text, self.line(place), self._task(place))

    def _task(self, place: Place) -> str:
        at: object = self.document
        name = ""
        for step in place:
            if isinstance(at, dict) and step in at:
                at = at[step]
            elif isinstance(at, list) and isinstance(step, int) and step < len(at):
                at = at[step]
                if isinstance(at, dict) and isinstance(at.get("id"), str):
                    name = at["id"]
            else:
                break
        return name


def _line(mark: _Mark | None) -> int:
    return mark.line + 1 if mark is not None else 0
