"""Collects figures and prints them as one table."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field


@dataclass
class Report:
    """Figures in the order they were measured."""

    rows: list[tuple[str, float, dict[str, float]]] = field(default_factory=list)
    echo: float | None = None  #: frames/s of the bare echo when it was measured last
    echo_ms: float | None = None  #: … and its round trip

    def add(self, name: str, value: float, **more: float) -> None:
        """Add a figure and say so at once."""
        self.rows.append((name, value, more))
        sys.stdout.write(line(name, value, more) + "\n")
        sys.stdout.flush()

    def add_rate(self, name: str, value: float, **more: float) -> None:
        """Add a figure per second, with how many times the bare echo it is.

        `echo.beside` measures that just before.
        """
        if self.echo:
            more["times_echo"] = value / self.echo
            more["echo"] = self.echo
        self.add(name, value, **more)

    def add_delay(self, name: str, value: float, **more: float) -> None:
        """Add a delay in milliseconds, with how many round trips of the bare echo it is."""
        if self.echo_ms:
            more["round_trips"] = value / self.echo_ms
            more["round_trip_ms"] = self.echo_ms
        self.add(name, value, **more)

    def markdown(self) -> str:
        """Return the figures as a Markdown table."""
        rows = ["| measure | value | more |", "|---|---:|---|"]
        for name, value, more in self.rows:
            rest = ", ".join(f"{key} {shown(item)}" for key, item in more.items())
            rows.append(f"| {name} | {shown(value)} | {rest} |")
        return "\n".join(rows)


def line(name: str, value: float, more: dict[str, float]) -> str:
    """Return one figure as a line of text."""
    rest = "  ".join(f"{key}={shown(item)}" for key, item in more.items())
    return f"{name:<58}{shown(value):>12}  {rest}"


def shown(value: float) -> str:
    """Return a number with three or more significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
