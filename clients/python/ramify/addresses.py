"""Where the services are: given, from the environment, or as `ramify up` starts them."""

import os

DEFAULT_STATE = "127.0.0.1:7420"
DEFAULT_ORCHESTRATOR = "127.0.0.1:7421"
STATE_ENV = "RAMIFY_STATE"
ORCHESTRATOR_ENV = "RAMIFY_ORCHESTRATOR"


def state_address(given: str | None = None) -> str:
    """Return the address of state_svc: as given, else from the environment, else the default."""
    return given or os.environ.get(STATE_ENV) or DEFAULT_STATE


def orchestrator_address(given: str | None = None) -> str:
    """Return the address of orchestrator_svc, looked up like `state_address`."""
    return given or os.environ.get(ORCHESTRATOR_ENV) or DEFAULT_ORCHESTRATOR
