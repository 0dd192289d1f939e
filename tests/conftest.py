"""What holds for every test."""

from __future__ import annotations

import os

# Before gRPC is loaded: it would start its threads again in the child that a pty needs, between
# fork and exec, where their complaints about closed files appear on the terminal under test.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
# The workers of pytest-xdist have one; a pipe has no width.
os.environ.pop("COLUMNS", None)

from hypothesis import settings

# The same examples each time, however busy the machine is. HYPOTHESIS_PROFILE=explore looks for
# new ones.
settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
