"""Models of checked values are the same as those that pydantic makes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from orchestrator_svc.agents.base import Output, RelatedNode, TaskType
from orchestrator_svc.engine.trusted import trusted


def test_a_model_of_checked_values_is_the_one_that_a_check_gives() -> None:
    values: dict[str, Any] = {
        "node_id": "n",
        "goal": "g",
        "task_type": TaskType.WRITE,
        "state": "DONE",
        "output": trusted(Output, content_type="text/plain", text="t", data=b"", summary="s"),
        "error": "",
        "shortened": False,
        "details": {"a": [1]},
    }
    made, checked = trusted(RelatedNode, **values), RelatedNode(**values)
    assert made == checked
    assert made.model_dump_json() == checked.model_dump_json()
    assert made.model_dump(exclude_unset=True) == checked.model_dump(exclude_unset=True)
    assert made.model_copy(update={"goal": "h"}).goal == "h"
    with pytest.raises(ValidationError):
        made.goal = "frozen"
