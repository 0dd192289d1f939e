"""Care of stores: check, backup and restore, and projects as files of their own."""

#: First arguments that ask for a command of `commands` and not for the service.
COMMANDS = frozenset({"check", "restore"})
