"""YAML files of operators, read strictly: whatever is wrong is one error of one line."""

from __future__ import annotations

from pathlib import Path

import yaml


class InvalidYaml(ValueError):
    """A file cannot be read as YAML; the text says where and why, in one line."""


def read_yaml(file: Path) -> object:
    """Return the document of a file, None if it is empty. Raises `InvalidYaml`."""
    try:
        text = file.read_text("utf-8")
        _refuse_repeated_keys(yaml.compose(text, Loader=yaml.SafeLoader))
        return yaml.safe_load(text)
    except Exception as error:  # PyYAML lets out whatever int(), a date or the stack raises
        raise InvalidYaml(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def _refuse_repeated_keys(root: yaml.Node | None) -> None:
    """Raise `ValueError` for a key that a mapping has twice; YAML takes the last one."""
    stack, met = [root], {id(root)}
    while stack:
        node = stack.pop()
        parts: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            keys: set[str] = set()
            for key, value in node.value:
                if isinstance(key, yaml.ScalarNode):
                    if key.value in keys:
                        line = key.start_mark.line + 1
                        raise ValueError(f"line {line}: {key.value} is there twice")
                    keys.add(key.value)
                parts.append(value)
        elif isinstance(node, yaml.SequenceNode):
            parts = node.value
        new = [part for part in parts if id(part) not in met]  # aliases lead to one node
        met.update(map(id, new))
        stack += new
