"""Which strings are ids (SEM 15)."""

from __future__ import annotations

import re

_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_PROJECT_ID = re.compile(r"(?:[A-Za-z0-9._~-]{1,128}/)?[A-Za-z0-9._~-]{1,128}")
_PRODUCER_ID = re.compile(r"[A-Za-z0-9._~/-]{1,128}")

is_id = _ID.fullmatch
is_project_id = _PROJECT_ID.fullmatch
is_producer_id = _PRODUCER_ID.fullmatch
