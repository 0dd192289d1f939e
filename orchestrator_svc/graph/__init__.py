"""The pure core: one project's run as data, and every decision about it. No I/O, no clock."""
