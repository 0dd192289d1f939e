"""Settings of the service: defaults < YAML file < environment < flags; unknown keys are errors.

A file may be shared with other services: this one reads its own section `orchestrator_svc:` and
`execution:`. An environment variable is `ORCHESTRATOR_SVC_` plus the key, a flag `--` plus the
key with dashes, for execution keys too.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator_svc.agents.profile import DEFAULT_PROFILE
from orchestrator_svc.errors import StartupError
from orchestrator_svc.graph.run import Settings

SECTION = "orchestrator_svc"
EXECUTION_SECTION = "execution"
ENV_PREFIX = "ORCHESTRATOR_SVC_"

Address = Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")]


class ExecutionConfig(BaseModel):
    """Execution keys of projects that do not set them (S2); ranges as in `ExecutionSettings`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_concurrent_nodes: int = Field(
        10, ge=1, le=10_000, description="agent calls of a project at one time"
    )
    max_execution_steps: int = Field(
        500, ge=0, le=10_000, description="agent-stage dispatches of a project; 0: unlimited"
    )
    max_recursion_depth: int = Field(
        5, ge=1, le=20, description="nodes at this layer are executed, never planned"
    )
    max_retries: int = Field(3, ge=0, le=100, description="counted failures of a node")
    retry_delay_seconds: float = Field(5.0, ge=0, le=3_600, description="base of the backoff")
    node_execution_timeout_seconds: float = Field(
        2_400.0, gt=0, le=86_400, description="time of one attempt while an agent call is open"
    )
    force_root_node_planning: bool = Field(True, description="plan the root without asking")
    skip_atomization: bool = Field(
        False, description="execute what no plan has decided about without asking the atomizer"
    )

    def to_settings(self) -> Settings:
        """Return the keys as the core takes them."""
        return Settings(**self.model_dump())


class ServiceConfig(BaseModel):
    """Effective settings; immutable after start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Address = Field(description="address of state_svc; needed")
    listen: Address = Field("127.0.0.1:7421", description="address to serve on; port 0 picks one")
    metrics_listen: Address | None = Field(None, description="address of Prometheus metrics")
    data: Path = Field(
        Path("data/orchestrator"), description="folder of the service's name and the indexes"
    )
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._~-]{1,100}$",
        description="producer name; by default a random one that is kept in the data folder",
    )
    log_level: str = Field(
        "INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="DEBUG INFO WARNING or ERROR"
    )
    default_profile: str = Field(
        DEFAULT_PROFILE, min_length=1, description="profile of projects that name none"
    )
    lease_ttl_seconds: float = Field(
        10.0, ge=1, le=60, description="how long a project stays ours without renewal"
    )
    max_projects: int = Field(2_000, ge=1, le=100_000, description="projects executed at one time")
    drain_call_seconds: float = Field(
        1.0, ge=0, le=3_600, description="time that agent calls get to end after SIGTERM"
    )
    drain_seconds: float = Field(
        10.0, gt=0, le=3_600, description="longest time that stopping may take"
    )
    execution: ExecutionConfig = Field(
        default_factory=lambda: ExecutionConfig.model_validate({}),
        description="keys of projects that do not set them",
    )


def load_config(
    argv: Sequence[str] | None = None, env: Mapping[str, str] | None = None
) -> ServiceConfig:
    """Return the effective settings. Raises `StartupError` naming the first bad key."""
    flags = vars(_parser().parse_args(argv))
    file = flags.pop("config")
    own, execution = _read_file(Path(file)) if file else ({}, {})
    for source in (_from_environment(os.environ if env is None else env), flags):
        for key, value in source.items():
            if value is not None:
                target = execution if key in ExecutionConfig.model_fields else own
                target[key] = value
    try:
        return ServiceConfig.model_validate({**own, "execution": execution})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise StartupError(f"config: {key} is needed, pass --{key} HOST:PORT") from error
        raise StartupError(f"config: {key}: {first['msg']}, not {first['input']!r}") from error


def _from_environment(env: Mapping[str, str]) -> dict[str, object]:
    return {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in env.items()
        if name.startswith(ENV_PREFIX)
    }


def _read_file(path: Path) -> tuple[dict[str, object], dict[str, object]]:
    """Return the two sections of a file."""
    try:
        document = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        cause = " ".join(str(error).split())
        raise StartupError(f"config: {path} cannot be read: {cause}") from error
    if not isinstance(document, dict):
        raise StartupError(f"config: {path} holds no sections")
    return _section(document, SECTION), _section(document, EXECUTION_SECTION)


def _section(document: Mapping[object, object], name: str) -> dict[str, object]:
    section = document.get(name) or {}
    if not isinstance(section, dict):
        raise StartupError(f"config: {name} is not a mapping of keys")
    if name == SECTION and EXECUTION_SECTION in section:
        raise StartupError(f"config: {name}.execution is not a key, use the section execution")
    for key in section:
        if name == SECTION and key in ExecutionConfig.model_fields:
            raise StartupError(f"config: {name}.{key} belongs to the section {EXECUTION_SECTION}")
    return {str(key): value for key, value in section.items()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator_svc",
        description="Executes projects; state_svc keeps them.",
        epilog="When ready, one JSON line with the address is printed on stdout; logs on stderr.",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file")
    for model in (ServiceConfig, ExecutionConfig):
        for name, field in model.model_fields.items():
            if name == "execution":
                continue
            known = "" if field.is_required() else f" (default: {field.default})"
            parser.add_argument(
                "--" + name.replace("_", "-"),
                dest=name,
                metavar="VALUE",
                help=f"{field.description}{known}",
            )
    return parser
