"""Small faults made from the source itself: another comparison, another number, a statement left out."""

from __future__ import annotations

import ast
import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
    ast.Pow: ast.Mult,
}  # fmt: skip

# What is told to people is not judged here, and neither is a declaration.
_TOLD = ("say", "warn", "print", "progress", "add_argument")


class Mutant(NamedTuple):
    """A fault in a file.

    Attributes:
        file: relative to the tree.
        line: of the fault.
        function: qualified name of the function that holds it, as ``Clip.frames``; empty outside of all.
        what: the fault in words: the source before and after.
        text: the whole file with the fault.
        begin, end: the first and last line that run when the fault does; 0, 0 outside of all functions.
    """

    file: str
    line: int
    function: str
    what: str
    text: str
    begin: int = 0
    end: int = 0


@functools.cache
def mutants_of(tree: Path, file: str) -> list[Mutant]:
    """All faults of a file, in the order of its lines."""
    source = (tree / file).read_text()
    offsets = [0]
    for line in source.encode().splitlines(keepends=True):
        offsets.append(offsets[-1] + len(line))
    found = []
    for node, replacement, function, lines in _faults(ast.parse(source), "", "", (0, 0)):
        begin = offsets[node.lineno - 1] + node.col_offset
        end = offsets[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)
        raw = source.encode()
        before, after = raw[begin:end].decode(), replacement
        text = (raw[:begin] + after.encode() + raw[end:]).decode()
        try:
            ast.parse(text)
        except SyntaxError:
            continue
        what = f"{' '.join(before.split())[:60]} -> {' '.join(after.split())[:60]}"
        found.append(Mutant(file, node.lineno, function, what, text, *lines))
    return sorted(found, key=lambda m: (m.line, m.what))


def _faults(
    node: ast.AST, function: str, scope: str, lines: tuple[int, int]
) -> Iterator[tuple[ast.expr | ast.stmt, str, str, tuple[int, int]]]:
    function, scope, lines = _inside(node, function, scope, lines)
    if isinstance(node, ast.expr):
        for changed in _changed_expressions(node):
            yield node, f"({ast.unparse(changed)})", function, lines
    if isinstance(node, ast.stmt) and function:
        for text in _changed_statements(node):
            yield node, text, function, lines
    for child in _judged_children(node):
        yield from _faults(child, function, scope, lines)


def statement_at(source: str, line: int) -> tuple[str, int, int]:
    """The innermost statement that holds a line: `function`, `begin` and `end` as `Mutant` says them."""
    function, scope, lines = "", "", (0, 0)
    node: ast.AST | None = ast.parse(source)
    while node is not None:
        function, scope, lines = _inside(node, function, scope, lines)
        held = (n for n in ast.iter_child_nodes(node) if isinstance(n, ast.stmt | ast.excepthandler | ast.match_case))
        node = next((n for n in held if _first_line(n) <= line <= _last_line(n)), None)
    return function, *lines


def _inside(node: ast.AST, function: str, scope: str, lines: tuple[int, int]) -> tuple[str, str, tuple[int, int]]:
    """The function, the prefix of names and the lines that run, for what a node holds."""
    if isinstance(node, ast.stmt):
        lines = _lines(node, function, lines)
    if isinstance(node, ast.FunctionDef):
        function = scope + node.name
        scope = f"{function}.<locals>."
    elif isinstance(node, ast.ClassDef):
        scope += f"{node.name}."
    return function, scope, lines


def _first_line(node: ast.stmt | ast.excepthandler | ast.match_case) -> int:
    return node.pattern.lineno if isinstance(node, ast.match_case) else node.lineno


def _last_line(node: ast.stmt | ast.excepthandler | ast.match_case) -> int:
    last = node.body[-1] if isinstance(node, ast.match_case) else node
    return last.end_lineno or last.lineno


def _lines(node: ast.stmt, function: str, outside: tuple[int, int]) -> tuple[int, int]:
    """The lines that run when a statement does, without those of the statements in it."""
    end = node.end_lineno or node.lineno
    if isinstance(node, ast.FunctionDef):
        return node.body[0].lineno, end  # its defaults matter where it is called
    if isinstance(node, ast.ClassDef) or not function:
        return outside
    body = getattr(node, "body", None)
    return node.lineno, max(node.lineno, body[0].lineno - 1) if body else end


def _judged_children(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a node that decide what happens, without texts, annotations, assertions and sentences for people."""
    if isinstance(node, ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom | ast.Assert):
        return
    if isinstance(node, ast.keyword) and node.arg == "strict":  # zip's: an assertion, too
        return
    if _tells(node):
        return
    if isinstance(node, ast.Subscript):  # types look like it
        yield node.slice
        yield node.value
        return
    skipped = {"annotation", "returns", "decorator_list", "type_comment"}
    for name, value in ast.iter_fields(node):
        if name in skipped:
            continue
        for part in value if isinstance(value, list) else [value]:
            is_text = isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)
            if isinstance(part, ast.AST) and not is_text:
                yield part


def _changed_expressions(node: ast.expr) -> Iterator[ast.expr]:
    changed = copy.deepcopy(node)
    if isinstance(changed, ast.Compare) and type(changed.ops[0]) in _COMPARISONS:
        changed.ops[0] = _COMPARISONS[type(changed.ops[0])]()
        yield changed
    elif isinstance(changed, ast.BinOp) and type(changed.op) in _ARITHMETIC and not _is_type(changed):
        changed.op = _ARITHMETIC[type(changed.op)]()
        yield changed
    elif isinstance(changed, ast.BoolOp):
        changed.op = ast.Or() if isinstance(changed.op, ast.And) else ast.And()
        yield changed
    elif isinstance(changed, ast.UnaryOp) and isinstance(changed.op, ast.Not):
        yield changed.operand
    elif isinstance(changed, ast.IfExp) and not (_is_sentence(changed.body) or _is_sentence(changed.orelse)):
        yield changed.body
        yield changed.orelse
    elif isinstance(changed, ast.Constant) and not isinstance(changed.value, str | bytes | type(None) | type(...)):
        if isinstance(changed.value, bool):
            yield ast.Constant(not changed.value)
        elif isinstance(changed.value, int):
            yield ast.Constant(changed.value + 1)
        elif isinstance(changed.value, float):
            yield ast.Constant(changed.value * 2 if changed.value else 1.0)


def _changed_statements(node: ast.stmt) -> Iterator[str]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        left_out = not _tells(node.value)
    elif isinstance(node, ast.Assign):
        left_out = isinstance(node.targets[0], ast.Attribute)
    elif isinstance(node, ast.If):
        left_out = not node.orelse and isinstance(node.body[0], ast.Return | ast.Raise)
    else:
        left_out = isinstance(node, ast.AugAssign | ast.Continue | ast.Break)
    if left_out:
        yield "pass"


def _tells(node: ast.AST) -> bool:
    """Whether a node calls something that prints."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in _TOLD


def _is_sentence(node: ast.expr) -> bool:
    """Words with a space between them, which are for people and no name of anything."""
    words = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return isinstance(node, ast.Constant | ast.JoinedStr) and any(" " in word.strip() for word in words)


def _is_type(node: ast.BinOp) -> bool:
    return isinstance(node.op, ast.BitOr)
