"""YAML files with the numbers and booleans of YAML 1.2, and without duplicate keys."""

from __future__ import annotations

import math
import re
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from prefloop.core.errors import UserError, raised

BYTES, NODES = 256_000, 20_000  # of a configuration
SMALL = "a configuration is small: name data files in it instead"


class _Loader(yaml.SafeLoader):
    """`1e-6` is a number; `no` and `2026-11-23` are text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (attribute of the base class)
        first: [(tag, rule) for tag, rule in rules if tag.rpartition(":")[2] in ("null", "int", "merge")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be text", problem_mark=key.start_mark)
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
        UserError: invalid YAML or a duplicate key, with its line; one that is too large, or refers to itself.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is not None and (size := _size(node, {})) > NODES:
            many = f"more than {NODES:,} values, each `*name` counted as what it stands for"
            raise UserError("a value contains itself" if size == math.inf else many, where=where, fix=SMALL)
        return None if node is None else _constructed(loader, node)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"invalid YAML: {problem or error}", where=f"{where}{line}") from None
    except RecursionError:
        raise UserError("invalid YAML: values are nested too deeply", where=where, fix=SMALL) from None


def _constructed(loader: _Loader, node: yaml.Node) -> Any:
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, RecursionError):
        raise
    except Exception as error:  # anything, for a scalar that is not what its tag says, such as `!!int x`
        raise yaml.MarkedYAMLError(problem=raised(error), problem_mark=node.start_mark) from None


def _size(node: yaml.Node, known: dict[int, int | float]) -> int | float:
    """The number of values below a node, each alias counted as what it stands for; infinite if it contains itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = math.inf  # until it is known
        inside = chain(*node.value) if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(_size(child, known) for child in inside)
    return known[id(node)]


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; empty for a file of comments.

    Raises:
        UserError: the file cannot be read, is too large, or does not contain a mapping.
    """
    try:
        with path.open("rb") as file:
            data = file.read(BYTES + 1)
        text = data.decode("utf-8") if len(data) <= BYTES else ""
    except (OSError, ValueError) as error:
        unreadable = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "its name is not a file name"
        reason = getattr(error, "strerror", None) or unreadable
        raise UserError(f"cannot read the configuration: {reason}", where=str(path)) from None
    if len(data) > BYTES:
        raise UserError(f"a configuration has at most {BYTES:,} bytes", where=str(path), fix=SMALL)
    tree = parse(text, str(path))
    if not isinstance(tree, dict | None) or not all(isinstance(key, str) for key in tree or ()):
        raise UserError("a configuration must consist of `key: value` lines", where=str(path))
    return tree or {}
