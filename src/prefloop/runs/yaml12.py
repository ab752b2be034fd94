"""YAML files with the numbers and booleans of YAML 1.2, and without duplicate keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from prefloop.core.errors import UserError


class _Loader(yaml.SafeLoader):
    """`1e-6` is a number; `no` and `2026-11-23` are text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (attribute of the base class)
        first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] in ("null", "int", "merge")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key `{key.value}`", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_NUMBER = r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(f"^(?:{_NUMBER})$"), list("-+.0123456789"))


class _Dumper(yaml.SafeDumper):
    """Quotes text that the loader would read as something else, such as `0E0`."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (attribute of the base class)
        first: [
            *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
            *_Loader.yaml_implicit_resolvers.get(first, []),
        ]
        for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *_Loader.yaml_implicit_resolvers}
    }


def dump(tree: Any) -> str:
    """YAML that `parse` reads back unchanged."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False)


def parse(text: str, where: str) -> Any:
    """The value of a YAML text.

    Raises:
        UserError: invalid YAML or a duplicate key, with its line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"invalid YAML: {problem or error}", where=f"{where}{line}") from None


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; empty for a file of comments.

    Raises:
        UserError: the file cannot be read, or does not contain a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"cannot read the configuration: {reason}", where=str(path)) from None
    tree = parse(text, str(path))
    if tree is not None and not isinstance(tree, dict):
        raise UserError("a configuration must consist of `key: value` lines", where=str(path))
    return tree or {}
