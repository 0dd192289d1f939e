"""Makes models of values that were checked before: no second check, at a third of its price."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

ModelT = TypeVar("ModelT", bound=BaseModel)

_set = object.__setattr__


def trusted(model: type[ModelT], **values: Any) -> ModelT:
    """Return a model of `values`, which must be all of its fields and valid.

    `model_construct` does the same and takes longer than a check would.
    """
    made = model.__new__(model)
    _set(made, "__dict__", values)
    _set(made, "__pydantic_fields_set__", set(values))
    _set(made, "__pydantic_extra__", None)
    _set(made, "__pydantic_private__", None)
    return made
