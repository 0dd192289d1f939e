"""What holds for every test."""

from __future__ import annotations

import os

from hypothesis import settings

# The same examples each time, however busy the machine is. HYPOTHESIS_PROFILE=explore looks for
# new ones.
settings.register_profile("steady", derandomize=True, database=None, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))
