"""Commands with sub-commands, and how these are listed."""

from typing import Any

from typer.core import TyperGroup

_WHOLE = 1_000  #: characters of a help line; longer than any, so that none is cut


class Group(TyperGroup):
    """Lists each sub-command with its whole first sentence, in lines of the terminal's width."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of sub-commands."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(_WHOLE)) for name, command in found if command]
        with formatter.section("Commands"):
            formatter.write_dl(rows)
