"""How long a test waits for an event: for ever, as far as a busy machine is concerned.

Tests wait for events, not for time; this bound only turns a wait without end into a failure that
says what was waited for. It is below the bound of a whole test in `pyproject.toml`.
"""

WAIT_SECONDS = 60.0
