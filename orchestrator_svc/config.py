"""Settings of the service: defaults < YAML file < environment < flags; unknown keys are errors.

A file is shared with state_svc: this service reads the sections `orchestrator_svc:` and
`execution:`, passes over `state_svc:` and what begins with `x-`, which has room for YAML anchors,
and refuses others. An environment variable is `ORCHESTRATOR_SVC_` plus the key, a flag `--` plus
the key with dashes, for execution keys too. Those are listed in `ExecutionSettings`.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from orchestrator_svc.agents.profile import (
    DEFAULT_MAX_PROCESSES,
    DEFAULT_PROFILE,
    ProfileRegistry,
    built_in_profiles,
)
from orchestrator_svc.agents.profile_file import InvalidProfile, with_files
from orchestrator_svc.agents.yaml_file import InvalidYaml, read_yaml
from orchestrator_svc.errors import StartupError
from orchestrator_svc.graph.settings import Scalar, choose
from orchestrator_svc.settings import (
    ALL_KEYS,
    KEYS,
    STATE_KEYS,
    InvalidSetting,
    read_settings,
    settle,
)

if TYPE_CHECKING:
    from orchestrator_svc.agents.processes.client import Processes

INDEX_FOLDER = "corpus-index"
SECTION = "orchestrator_svc"
EXECUTION_SECTION = "execution"
SECTIONS = ("state_svc", SECTION, EXECUTION_SECTION)
ENV_PREFIX = "ORCHESTRATOR_SVC_"

#: A file may group these keys under one, by shorter names.
_GROUP = "timeout_strategy"
_GROUPED = {
    "warning": "timeout_warning_seconds",
    "soft": "timeout_soft_seconds",
    "hard": "timeout_hard_seconds",
    "max_recovery_attempts": "max_recovery_attempts",
}

Address = Annotated[str, Field(pattern=r"^\S+:\d{1,5}$")]


def _openable(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("holds a zero byte, which no path may")
    return path


OpenablePath = Annotated[Path, AfterValidator(_openable)]


class ServiceConfig(BaseModel):
    """Effective settings; immutable after start."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Address = Field(description="address of state_svc; needed")
    listen: Address = Field("127.0.0.1:7421", description="address to serve on; port 0 picks one")
    metrics_listen: Address | None = Field(None, description="address of Prometheus metrics")
    data: OpenablePath = Field(
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
    profiles: OpenablePath | None = Field(
        None, description="profile file, or folder of them, beside the built-in profiles"
    )
    lease_ttl_seconds: float = Field(
        10.0, ge=1, le=60, description="how long a project stays ours without renewal"
    )
    max_projects: int = Field(2_000, ge=1, le=100_000, description="projects executed at one time")
    drain_call_seconds: float = Field(
        1.0, ge=0, le=3_600, description="time that agent calls get to end after SIGTERM"
    )
    spool_bytes: int = Field(
        268_435_456,
        ge=0,
        le=1 << 40,
        description="outcomes kept in a file while state_svc is away; 0: none",
    )
    drain_seconds: float = Field(
        10.0, gt=0, le=3_600, description="longest time that stopping may take"
    )
    allow_plans: Literal["loopback", "always", "never"] = Field(
        "loopback",
        description="who may run plans, which hold commands: loopback: only while this service "
        "and state_svc listen on this machine alone",
    )
    max_processes: int = Field(
        DEFAULT_MAX_PROCESSES, ge=1, le=10_000, description="child processes at one time"
    )
    execution: dict[str, Scalar] = Field(
        default_factory=dict, description="execution keys chosen for projects that do not set them"
    )

    def plans_refused(self) -> str:
        """Return why no plan is run here; empty if plans are."""
        if self.allow_plans == "never":
            return "this orchestrator runs no plans (allow_plans is never)"
        addresses = (self.listen, self.state)
        if self.allow_plans == "loopback" and not all(map(is_loopback, addresses)):
            return (
                "plans hold commands, and this orchestrator or its state_svc can be reached from "
                "elsewhere; start it with --allow-plans always to run them all the same"
            )
        return ""


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach an address."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_config(
    argv: Sequence[str] | None = None, env: Mapping[str, str] | None = None
) -> ServiceConfig:
    """Return the effective settings. Raises `StartupError` naming the first bad key.

    Exits for --help and for --check-config, which reads the profiles too and then prints the
    settings as a file that could be loaded.
    """
    flags = vars(_parser().parse_args(argv))
    file, check = flags.pop("config"), flags.pop("check_config")
    own, execution = _read_file(Path(file)) if file else ({}, {})
    for source in (_from_environment(os.environ if env is None else env), flags):
        for key, value in source.items():
            if value is not None:
                target = execution if key in ALL_KEYS else own
                target[key] = value
    try:
        chosen = read_settings(execution)
        settle(chosen)
    except InvalidSetting as error:
        raise StartupError(f"config: {EXECUTION_SECTION}.{error}") from error
    try:
        config = ServiceConfig.model_validate({**own, EXECUTION_SECTION: chosen})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise StartupError(f"config: {key} is needed, pass --{key} HOST:PORT") from error
        raise StartupError(f"config: {key}: {first['msg']}, not {first['input']!r}") from error
    if check:
        load_profiles(config)
        print(show_config(config), end="")  # noqa: T201 - what was asked for
        raise SystemExit(0)
    return config


def load_profiles(config: ServiceConfig, processes: Processes | None = None) -> ProfileRegistry:
    """Return the profiles of the service; those of files are read, and their agents imported.

    Raises `StartupError` naming the file and the key.
    """
    profiles = built_in_profiles(
        config.data / INDEX_FOLDER, processes=processes, plans_refused=config.plans_refused()
    )
    if config.profiles is not None:
        try:
            profiles = with_files(config.profiles, profiles)
        except InvalidProfile as error:
            raise StartupError(f"config: profiles: {error}") from error
    if profiles.get(config.default_profile) is None:
        known = ", ".join(profiles.names())
        raise StartupError(
            f"config: default_profile: there is no {config.default_profile!r}, choose of: {known}"
        )
    return profiles


def show_config(config: ServiceConfig) -> str:
    """Return the settings in force as the YAML file that would give them."""
    own = config.model_dump(mode="json", exclude={EXECUTION_SECTION}, exclude_none=True)
    settled = {**choose(config.execution), **asdict(settle(config.execution))}
    execution = {
        name: str(value) if isinstance(value, str) else value for name, value in settled.items()
    }
    return yaml.safe_dump({SECTION: own, EXECUTION_SECTION: execution}, sort_keys=False)


def _from_environment(env: Mapping[str, str]) -> dict[str, object]:
    return {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in env.items()
        if name.startswith(ENV_PREFIX)
    }


def _read_file(path: Path) -> tuple[dict[str, object], dict[str, object]]:
    """Return the two sections of a file."""
    try:
        document = read_yaml(path) or {}
    except InvalidYaml as error:
        raise StartupError(f"config: {error}") from error
    if not isinstance(document, dict):
        raise StartupError(f"config: {path} holds no sections")
    for name in document:
        if name not in SECTIONS and not str(name).startswith("x-"):
            known = ", ".join(SECTIONS)
            raise StartupError(f"config: {path}: {name} is not a section; they are {known}")
    return _section(document, SECTION), _section(document, EXECUTION_SECTION)


def _section(document: Mapping[object, object], name: str) -> dict[str, object]:
    section = document.get(name) or {}
    if not isinstance(section, dict):
        raise StartupError(f"config: {name} is not a mapping of keys")
    if name == SECTION and EXECUTION_SECTION in section:
        raise StartupError(f"config: {name}.execution is not a key, use the section execution")
    for key in section:
        if name == SECTION and key in ALL_KEYS:
            raise StartupError(f"config: {name}.{key} belongs to the section {EXECUTION_SECTION}")
    found = {str(key): value for key, value in section.items()}
    return _ungroup(found) if name == EXECUTION_SECTION else found


def _ungroup(section: dict[str, object]) -> dict[str, object]:
    """Return the section with the keys that `timeout_strategy` groups in its place."""
    group = section.pop(_GROUP, {})
    if not isinstance(group, dict):
        raise StartupError(f"config: {EXECUTION_SECTION}.{_GROUP} is not a mapping of keys")
    for short, value in group.items():
        key = _GROUPED.get(short)
        if key is None:
            known = ", ".join(_GROUPED)
            raise StartupError(f"config: {EXECUTION_SECTION}.{_GROUP}.{short}: it has {known}")
        if key in section:
            raise StartupError(f"config: {EXECUTION_SECTION}.{key} is given twice")
        section[key] = value
    return section


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m orchestrator_svc",
        description="Executes projects; state_svc keeps them.",
        epilog="When ready, one JSON line with the address is printed on stdout; logs on stderr.",
    )
    parser.add_argument("--config", metavar="FILE", help="YAML file")
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="read the profiles, print the settings in force, and exit",
    )
    for name, field in ServiceConfig.model_fields.items():
        if name != EXECUTION_SECTION:
            known = "" if field.is_required() else f" (default: {field.default})"
            _add_flag(parser, name, f"{field.description}{known}")
    group = parser.add_argument_group("execution keys of projects that do not set them")
    for key in KEYS.values():
        known = "" if key.default is None else f" (default: {key.default})"
        _add_flag(group, key.name, f"{key.meaning}; {key.allowed}{known}")
    group = parser.add_argument_group("keys of storage of such projects (default: state_svc's own)")
    for key in STATE_KEYS.values():
        _add_flag(group, key.name, f"{key.meaning}; {key.allowed}")
    return parser


def _add_flag(parser: argparse._ActionsContainer, name: str, text: str) -> None:
    flag = "--" + name.replace("_", "-")
    parser.add_argument(flag, dest=name, metavar="VALUE", help=text.replace("%", "%%"))
