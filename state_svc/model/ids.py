"""Which strings are ids (SEM 15)."""

from __future__ import annotations

import re

_ID = re.compile(r"[A-Za-z0-9._~-]{1,128}")
_PROJECT_ID = re.compile(r"(?:[A-Za-z0-9._~-]{1,128}/)?[A-Za-z0-9._~-]{1,128}")
_PRODUCER_ID = re.compile(r"[A-Za-z0-9._~/-]{1,128}")

#: What is wrong with an id of a project that is none.
NO_PROJECT_ID = "is not 1 to 128 of A-Z a-z 0-9 . _ ~ -, with at most one namespace/ before it"

is_id = _ID.fullmatch
is_project_id = _PROJECT_ID.fullmatch
is_producer_id = _PRODUCER_ID.fullmatch
