"""Bounds how many commands and reviews a project has; they stay in memory, ended ones too. Pure."""

from __future__ import annotations

from ramify.v1.command_pb2 import CommandType
from state_svc.errors import LimitReached
from state_svc.model.limits import Limits
from state_svc.model.project import Applied, LiveProject

_CANCEL = CommandType.COMMAND_TYPE_CANCEL_PROJECT
_CANCELS = 1_000  #: orders to cancel that are taken beyond the bound: they end the project


def check_counts(project: LiveProject, applied: Applied, limits: Limits) -> None:
    """Raise `LimitReached` if a batch would give a project too many commands or reviews.

    A batch that adds none is taken whatever there is.
    """
    if applied.commands:
        new = [c for key, c in applied.commands.items() if project.command(key) is None]
        most = limits.max_project_commands
        if all(command.type == _CANCEL for command in new):
            most += _CANCELS
        if new and project.command_count() + len(new) > most:
            _refuse("max_project_commands", limits.max_project_commands, "fork the project")
    if applied.reviews and applied.entity is not None:
        before, after = project.entity, applied.entity
        if after.review_count > max(before.review_count, limits.max_project_reviews):
            _refuse("max_project_reviews", limits.max_project_reviews, "fork the project")
        if after.open_review_count > max(before.open_review_count, limits.max_open_reviews):
            _refuse("max_open_reviews", limits.max_open_reviews, "decide or withdraw some")


def _refuse(limit: str, most: int, remedy: str) -> None:
    raise LimitReached(limit=limit, most=most, remedy=remedy)
