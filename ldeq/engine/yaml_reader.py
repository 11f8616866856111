"""YAML as configurations need it: YAML 1.2's plain values, no tags, no key twice, and bounded work for any input.

PyYAML follows YAML 1.1, where ``off`` is false, ``010`` is 8, ``1:30`` is 90 and ``1e-3`` is text; here they are ``"off"``, 10,
``"1:30"`` and 0.001.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

import yaml

from ..errors import LdeqError

DEEPEST = 20
"""Groups inside each other; configurations have three."""

LARGEST = 10_000
"""Values of a document, each counted as often as aliases repeat it."""

LONGEST = 1 << 18
"""Characters of a document."""

_SCALARS = {
    "null": r"~|null|Null|NULL|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9][0-9_]*|0x[0-9a-fA-F]+|0o[0-7]+",
    "float": r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9_]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": r"<<",
}


class YamlError(LdeqError, ValueError):
    """What is wrong with a document, with its line; whoever reads one says of which file."""


def parse_yaml(text: str | bytes) -> Any:
    """The value of a YAML document.

    Args:
        text: the document; bytes are UTF-8, or UTF-16 with a byte order mark.

    Returns:
        Nested dictionaries, lists, text, numbers, booleans and None; None for an empty document.

    Raises:
        YamlError: if it is no YAML, holds a tag or a key twice, or is too large or too deep.
    """
    if len(text) > LONGEST:
        raise YamlError(f"it has more than {LONGEST} characters; is it a configuration?")
    # PyYAML ends a text at a NUL character without a word.
    if not isinstance(text, bytes) and "\0" in text:
        raise YamlError("it holds a NUL character")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f" in line {mark.line + 1}" if mark else ""
        raise YamlError(f"{error.problem or error.context}{where}") from None
    except (yaml.YAMLError, UnicodeError) as error:
        raise YamlError(str(error).splitlines()[0]) from None


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}
    yaml_constructors: ClassVar[dict[Any, Any]] = {}

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if getattr(event, "tag", None) is not None:
            raise _problem(f"a tag ({_short(event.tag)}), which no setting needs; remove it", event.start_mark)
        self._depth += 1
        if self._depth > DEEPEST:
            raise _problem(f"more than {DEEPEST} groups inside each other", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def compose_document(self) -> Any:
        node = super().compose_document()
        _check_size(node, {})
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem("a key that is a list or a group; write a name", key.start_mark)
            if key.value in seen:
                raise _problem(f"the key {_short(key.value)} a second time", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=True)

    def construct_number(self, node: Any) -> int | float:
        text = node.value.replace("_", "")
        try:
            if node.tag.endswith("int"):
                return int(text, 0) if text.lower().startswith(("0x", "0o")) else int(text)
            return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
        except (ValueError, OverflowError):
            raise _problem("a number that is too long", node.start_mark) from None

    def construct_truth(self, node: Any) -> bool:
        return bool(node.value.lower() == "true")


def _check_size(node: Any, sizes: dict[int, int]) -> int:
    """How many values a node stands for when its aliases are written out; each node is visited once."""
    if node is None or id(node) in sizes:
        size = 0 if node is None else sizes[id(node)]
        if size < 0:
            raise _problem("an alias inside of what it stands for", node.start_mark)
        return size
    sizes[id(node)] = -1
    size = 1
    if isinstance(node, yaml.MappingNode):
        size += sum(_check_size(part, sizes) for pair in node.value for part in pair)
    elif isinstance(node, yaml.SequenceNode):
        size += sum(_check_size(part, sizes) for part in node.value)
    if size > LARGEST:
        raise _problem(f"more than {LARGEST} values, aliases written out", node.start_mark)
    sizes[id(node)] = size
    return size


def _problem(what: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=f"found {what}", problem_mark=mark)


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:37] + "...")


for _name, _pattern in _SCALARS.items():
    _first = {"null": ["~", "n", "N", ""], "bool": list("tTfF"), "merge": ["<"]}.get(_name, list("-+0123456789."))
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)
for _name, _construct in {
    "null": yaml.SafeLoader.construct_yaml_null,
    "bool": _Loader.construct_truth,
    "int": _Loader.construct_number,
    "float": _Loader.construct_number,
    "str": yaml.SafeLoader.construct_yaml_str,
    "seq": yaml.SafeLoader.construct_yaml_seq,
    "map": yaml.SafeLoader.construct_yaml_map,
    "merge": yaml.SafeLoader.construct_yaml_str,
}.items():
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _construct)
