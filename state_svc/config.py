"""Settings of the state service: defaults < file < environment < flags. Unknown keys are errors."""

from __future__ import annotations

import argparse
import difflib
import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from state_svc.errors import InvalidConfig
from state_svc.model.storing import KEYS, PRESETS, Storing

SECTION = "state_svc"
#: What a file may hold; what begins with `x-` is passed over and has room for YAML anchors.
SECTIONS = (SECTION, "orchestrator_svc", "execution")
ENV_PREFIX = "STATE_SVC_"


class Settings(BaseModel):
    """Effective settings; immutable once the service runs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path = Field(Path("data/state"), description="data directory")
    listen: str = Field("127.0.0.1:7420", description="address to serve gRPC on; port 0 picks one")
    metrics_listen: str = Field("", description="address for Prometheus; empty: none")
    metrics_projects: int = Field(
        100, ge=0, le=10_000, description="projects with Prometheus series of their own"
    )
    log_level: str = Field(
        "INFO", description="DEBUG, INFO, WARNING or ERROR", pattern="^(DEBUG|INFO|WARNING|ERROR)$"
    )
    drain_seconds: float = Field(5.0, ge=0, le=300, description="longest drain after SIGTERM")

    preset: str = Field(
        "",
        description="values for other keys: " + ", ".join(PRESETS) + "; a key that is set wins",
        pattern=f"^({'|'.join(PRESETS)}|)$",
    )
    state_batch_size: int = Field(
        50, ge=1, le=100_000, description="mutations that make a commit due"
    )
    state_batch_timeout_ms: int = Field(
        100, ge=0, le=60_000, description="age that makes a commit due, in milliseconds"
    )
    eager_commit: bool = Field(
        True,
        description="commit as soon as the previous commit is done",
    )
    enable_state_compression: bool = Field(True, description="compress segments with zstd")
    compression_threshold_bytes: int = Field(
        1_024, ge=0, description="smaller segments stay as they are"
    )
    max_pending_bytes: int = Field(
        64 << 20, ge=1 << 20, description="accepted but not durable; then streams are not read"
    )
    snapshot_revisions: int = Field(
        2_000, ge=1, description="revisions of a project after which a snapshot is taken"
    )
    snapshot_bytes: int = Field(
        8 << 20, ge=1, description="stored bytes of a project after which a snapshot is taken"
    )
    stage_archive_days: float = Field(
        90.0, ge=0, description="age at which archived stage records go; 0 keeps them for ever"
    )
    snapshot_mutations: int = Field(
        100_000, ge=1, description="updates of a project after which a snapshot is taken"
    )
    max_live_bytes: int = Field(
        1 << 30, ge=0, description="encoded nodes in memory; idle projects beyond are unloaded"
    )
    retention_seconds: int = Field(
        0, ge=0, description="age from which history is dropped; 0: never"
    )
    retention_revisions: int = Field(
        0, ge=0, description="latest revisions of a project that are kept; 0: all"
    )
    retention_bytes: int = Field(
        0, ge=0, description="latest stored bytes of a project's segments that are kept; 0: all"
    )
    max_projects: int = Field(
        1_000_000, ge=1, description="project ids of the store, those of deleted projects included"
    )
    max_producers: int = Field(
        100_000, ge=1, description="producers of the store that named themselves"
    )
    max_watchers: int = Field(10_000, ge=1, description="open watches of the service")
    max_streams: int = Field(10_000, ge=1, description="open mutation streams of the service")
    max_calls: int = Field(
        1_000,
        ge=1,
        description="other calls under way, without those about leases and without uploads and"
        " downloads; more are refused with OVERLOADED",
    )
    ws_batch_size: int = Field(
        50, ge=1, le=100_000, description="broadcast mode batch: changes that make a message due"
    )
    ws_batch_timeout_ms: int = Field(
        100, ge=0, le=60_000, description="broadcast mode batch: age that makes a message due, ms"
    )
    enable_ws_compression: bool = Field(
        True, description="compress messages for watches that accept it"
    )
    enable_diff_updates: bool = Field(
        True, description="watches that do not say get changed fields only; false: whole entities"
    )
    watch_frame_budget_us: int = Field(
        80, ge=0, le=100_000, description="pause of a project's fan-out per watcher, microseconds"
    )

    def storing(self) -> Storing:
        """Return the keys by which projects without keys of their own are stored."""
        return Storing(**{key: getattr(self, key) for key in KEYS})


def load(argv: list[str] | None = None, env: dict[str, str] | None = None) -> Settings:
    """Return the settings in force. Raises `InvalidConfig`; exits for --help and bad flags."""
    flags = vars(_parser().parse_args(argv))
    values = _read_file(flags.pop("config"))
    environment = os.environ if env is None else env
    for name, text in environment.items():
        if name.startswith(ENV_PREFIX):
            values[name.removeprefix(ENV_PREFIX).lower()] = text
    values.update({name: value for name, value in flags.items() if value is not None})
    preset = PRESETS.get(str(values.get("preset")), {})
    values = {**preset, **values}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        unknown = first["type"] == "extra_forbidden"
        raise InvalidConfig(key=key, problem=_unknown(key) if unknown else first["msg"]) from error


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, Settings.model_fields, n=1)
    return f"is not a key; {f'did you mean {near[0]}?' if near else '--help lists them'}"


def _read_file(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        text = Path(path).read_text("utf-8")
        _refuse_repeated_keys(yaml.compose(text, Loader=yaml.SafeLoader))
        document = yaml.safe_load(text)
    except Exception as error:  # PyYAML lets out whatever int(), a date or the stack raises
        raise InvalidConfig(file=path, problem=" ".join(str(error).split())) from error
    if document is not None and not isinstance(document, dict):
        raise InvalidConfig(file=path, problem="is not a mapping of sections")
    for name in document or {}:
        if name not in SECTIONS and not str(name).startswith("x-"):
            problem = f"is not a section; they are {', '.join(SECTIONS)}"
            raise InvalidConfig(file=path, key=name, problem=problem)
    section = (document or {}).get(SECTION)
    if section is not None and not isinstance(section, dict):
        raise InvalidConfig(file=path, key=SECTION, problem="is not a mapping")
    return dict(section or {})


def _refuse_repeated_keys(root: yaml.Node | None) -> None:
    """Raise `ValueError` for a key that a mapping has twice; YAML takes the last one."""
    stack, met = [root], {id(root)}
    while stack:
        node = stack.pop()
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys:
                        line = key.start_mark.line + 1
                        raise ValueError(f"line {line}: {key.value} is there twice")
                    keys.add(key.value)
                parts.append(value)
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        new = [part for part in parts if id(part) not in met]  # aliases lead to one node
        met.update(map(id, new))
        stack += new


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m state_svc",
        description="Keeps every change of every project durable and watchable.",
        epilog=f"Each flag is also a key of section {SECTION!r} in the file and, with the prefix "
        f"{ENV_PREFIX}, an environment variable. Flags win over the environment, that over the "
        "file. When ready, one JSON line with the address is printed on stdout. Of a data "
        "directory: python -m state_svc check --help, python -m state_svc restore --help.",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file")
    for name, field in Settings.model_fields.items():
        default = field.default
        parser.add_argument(
            "--" + name.replace("_", "-"),
            dest=name,
            metavar=type(default).__name__.upper().replace("POSIXPATH", "DIR"),
            help=f"{field.description} (default: {default if default != '' else 'none'})",
        )
    return parser
