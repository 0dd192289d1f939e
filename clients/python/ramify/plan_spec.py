"""The words of a plan file, strict: unknown keys and wrong types are errors."""

import math
import re
from datetime import date
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

#: But for the tab and what ends a line.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,63}$")]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Retries = Annotated[int, Field(ge=0, le=100)]


def _text(value: object) -> object:
    """Take a whole number for its text, as in `[sleep, 1]`; anything else has to be quoted."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _printable(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds a zero byte")
    return text


def _readable(text: str) -> str:
    found = _CONTROL.search(text)
    if found:
        raise ValueError(f"holds the control character U+{ord(found.group()):04X}")
    return text


def _one_line(text: str) -> str:
    if _CONTROL.search(text) or "\n" in text or "\r" in text:
        raise ValueError("holds a control character or the end of a line")
    return text


def _command(value: object) -> object:
    if isinstance(value, str) and value.strip():
        return _printable(value)
    if isinstance(value, list) and value:
        words = [_text(word) for word in value]
        for word in words:
            if not isinstance(word, str):
                raise ValueError(f"has a word that is no text ({word!r}); put it into quotes")
            _printable(word)
        return words
    raise ValueError("is a line for the shell or a list of arguments")


MAX_WHOLE_NUMBER = 2**53  #: JSON, and so the contract, has no larger ones that are exact


def _exact(value: object) -> object:
    """Refuse numbers that a function would get as others."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack += item
        elif isinstance(item, dict):
            stack += item.values()
        elif isinstance(item, float) and not math.isfinite(item):
            raise ValueError(f"{item} is no number of JSON")
        elif isinstance(item, int) and abs(item) > MAX_WHOLE_NUMBER:
            raise ValueError(f"{item} is too large to be exact; put it into quotes")
        elif isinstance(item, date):
            raise ValueError(f"{item} is a date; put it into quotes")
    return value


Arguments = BeforeValidator(_exact)
Text = Annotated[str, BeforeValidator(_text)]
Env = dict[str, Annotated[Text, AfterValidator(_printable)]]
Readable = Annotated[str, AfterValidator(_readable)]
Goal = Annotated[Readable, Field(min_length=3, max_length=10_000)]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")]


class Strict(BaseModel):
    """Refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", strict=True)


class HttpSpec(Strict):
    """A request."""

    url: Annotated[str, Field(pattern=r"^https?://[^/\s]+"), AfterValidator(_one_line)]
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    headers: dict[HeaderName, Annotated[Text, AfterValidator(_one_line)]] = Field(
        default_factory=dict
    )
    body: str = ""
    expected_status: list[Annotated[int, Field(ge=100, le=599)]] = Field(default_factory=list)


class BudgetSpec(Strict):
    """What a task, or a group with everything in it, may use."""

    wall_seconds: float = Field(gt=0, le=1_000_000_000)


class Inherited(Strict):
    """What a plan and a group hand down to their tasks."""

    working_directory: Readable = ""
    env: Env = Field(default_factory=dict)
    timeout_seconds: Seconds | None = None
    retries: Retries | None = None
    on_exhausted: Literal["fail", "pause", "replan", "ask"] | None = None


class TaskSpec(Inherited):
    """A task with one of `command`, `python` and `http`, or a group with `tasks`."""

    id: Id
    goal: Goal | None = None
    depends_on: list[Id] = Field(default_factory=list)
    command: Annotated[Any, BeforeValidator(_command)] = None  #: str or list[str]
    python: str | None = Field(default=None, pattern=r"^[\w.]+:[\w.]+$")
    args: Annotated[list[JsonValue], Arguments] = Field(default_factory=list)
    kwargs: Annotated[dict[str, JsonValue], Arguments] = Field(default_factory=dict)
    http: HttpSpec | None = None
    output: Literal["text", "json"] = "text"
    pass_dependencies: bool = False
    on_dependency_failure: Literal["fail", "run", "replan", "skip"] | None = None
    budget: BudgetSpec | None = None
    tasks: list["TaskSpec"] = Field(default_factory=list)

    @property
    def kinds(self) -> list[str]:
        """The keys that say what the task does; exactly one is right."""
        return [kind for kind in ("command", "python", "http", "tasks") if getattr(self, kind)]


class PlanSpec(Inherited):
    """A whole file."""

    goal: Goal
    settings: dict[str, bool | int | float | str] = Field(default_factory=dict)
    labels: Env = Field(default_factory=dict)
    tasks: list[TaskSpec] = Field(min_length=1)
