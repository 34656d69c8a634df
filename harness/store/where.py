"""The language of ``harness runs list --where "backbone = resnet18 and accuracy > 0.86"``, compiled to SQL expressions.

A filter's text reaches the database as bound values alone. Every comparison is either true or false of a run: one that
has no value there, or no tag, fulfils ``!=``, ``not in`` and ``is null``, and nothing else. So ``not`` gives what is
left. Both databases answer alike, but for letters beyond ASCII, whose cases SQLite does not know.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast, get_args

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Double,
    Exists,
    SQLColumnExpression,
    Text,
    and_,
    literal,
    not_,
    or_,
    true,
    type_coerce,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from harness.errors import ConfigError, did_you_mean
from harness.results import RunStatus
from harness.store.models import (
    AttemptRow,
    DatasetRow,
    EnvironmentRow,
    ExperimentRow,
    PlainText,
    RunRow,
    SweepRow,
    TagRow,
    UtcDateTime,
)

if TYPE_CHECKING:
    from lark import Lark, Token, Tree

__all__ = ["FIELDS", "Field", "compile_where", "sort_column"]

_LONGEST = 5_000  # characters: SQLite takes expressions of 1,000 terms, and `id=1 or ` has eight characters
_DEEPEST = 12  # levels of `and` in `or` in `and`: SQLite's parser and Python's stack end somewhat later

_GRAMMAR = r"""
?start: either
?either: both (_OR both)*
?both: single (_AND single)*
?single: NOT single                                         -> negation
       | "(" either ")"
       | WORD OPERATOR value                                -> compared
       | WORD [NOT] _IN "(" value ("," value)* ")"          -> listed
       | WORD _IS [NOT] _NULL                               -> missing
?value: WORD | STRING

_AND.2: /and(?![\w.\/:+-])/i
_OR.2: /or(?![\w.\/:+-])/i
_IN.2: /in(?![\w.\/:+-])/i
_IS.2: /is(?![\w.\/:+-])/i
_NULL.2: /null(?![\w.\/:+-])/i
NOT.2: /not(?![\w.\/:+-])/i
WORD: /[\w.\/:+-]+%?/
OPERATOR: /[=!]=|<>|[<>]=?|[=~]/
STRING: /"(?:""|\\.|[^"\\])*"|'(?:''|\\.|[^'\\])*'/s
%ignore /\s+/
"""

# What the parser may take next, in words; the first that fits decides.
_EXPECTED = (
    ("STRING", "a value"),
    ("WORD", "a field"),
    ("OPERATOR", "=, !=, <, <=, >, >=, ~, in, not in, is null or is not null"),
    ("_NULL", "null or not null"),
    ("_IN", "in"),
    ("COMMA", "a comma or )"),
    ("LPAR", "( and values"),
    ("$END", "and, or, or the end"),
    ("RPAR", "and, or, or )"),
)

_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:(?:[eE][+-]?[0-9]+)?|%)")
_CONFIG_PATH = re.compile(r"config((?:\.(?:[A-Za-z_][A-Za-z0-9_-]*|[0-9]{1,6})){1,16})")
_CONFIG = "config.KEY"
_COMPARE: dict[str, Callable[[Any, Any], ColumnElement[bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


# --- what the two databases say differently --------------------------------------------------------------------------


class _Config(FunctionElement[Any]):
    """What a subclass wants of a value in a run's configuration; NULL where it is none, or null."""

    inherit_cache = True
    wanted: ClassVar[str]

    def __init__(self, *path: str | int) -> None:
        steps = (f"[{part}]" if isinstance(part, int) else f'."{part}"' for part in path)
        on_sqlite, on_postgresql = f"${''.join(steps)}", f"{{{','.join(map(str, path))}}}"
        super().__init__(RunRow.config, literal(on_sqlite, Text()), literal(on_postgresql, Text()))


class _ConfigKind(_Config):
    """The value's type, in the database's words."""

    type = Text()
    inherit_cache = True
    wanted = "kind"


class _ConfigText(_Config):
    """A text; ``true`` and ``false`` are texts as well."""

    type = PlainText()
    inherit_cache = True
    wanted = "text"


class _ConfigNumber(_Config):
    """A number."""

    type = Double()
    inherit_cache = True
    wanted = "number"


@compiles(_Config)
def _config_on_sqlite(element: _Config, compiler: SQLCompiler, **kw: Any) -> str:
    config, path, _ = (compiler.process(each, **kw) for each in element.clauses)
    kind, value = f"json_type({config}, {path})", f"json_extract({config}, {path})"
    return {
        "kind": f"nullif({kind}, 'null')",
        "text": f"CASE {kind} WHEN 'text' THEN {value} WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' END",
        "number": f"CASE WHEN {kind} IN ('integer', 'real') THEN {value} END",
    }[element.wanted]


@compiles(_Config, "postgresql")
def _config_on_postgresql(element: _Config, compiler: SQLCompiler, **kw: Any) -> str:
    config, _, path = (compiler.process(each, **kw) for each in element.clauses)
    # PostgreSQL stores NUL and lone surrogates, as paths with odd names hold, but cannot look into a text that has any.
    odd = r"\\u0000|\\ud[89ab]..(?!\\ud[c-f])|(?<!\\ud[89ab]..)\\ud[c-f].."
    cleaned = rf"regexp_replace({config}::text, '{odd}', '\\ufffd', 'gi')::json"
    readable = rf"CASE WHEN strpos({config}::text, '\u') > 0 THEN {cleaned} ELSE {config} END"
    result = {
        "kind": "nullif(kind, 'null')",
        "text": "CASE WHEN kind IN ('string', 'boolean') THEN text END",
        # Nothing but a number is cast, and an integer beyond all doubles is put at their end.
        "number": "CASE WHEN kind = 'number' THEN greatest(-1e308, least(1e308, text::numeric))::double precision END",
    }[element.wanted]
    looked_up = f"(SELECT ({readable}) #> ({path})::text[] AS value) AS looked_up"
    typed = f"(SELECT json_typeof(value) AS kind, value #>> '{{}}' AS text FROM {looked_up}) AS typed"  # noqa: S608
    return f"(SELECT {result} FROM {typed})"  # noqa: S608


class _Ordered(FunctionElement[str]):
    """Text that is put in the order of code points, as SQLite does, and PostgreSQL does not in most languages."""

    type = PlainText()
    inherit_cache = True


@compiles(_Ordered)
def _ordered_on_sqlite(element: _Ordered, compiler: SQLCompiler, **kw: Any) -> str:
    return compiler.process(element.clause_expr, **kw)


@compiles(_Ordered, "postgresql")
def _ordered_on_postgresql(element: _Ordered, compiler: SQLCompiler, **kw: Any) -> str:
    return f'({compiler.process(element.clause_expr, **kw)} COLLATE "C")'


# --- fields ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Field:
    """What a run can be asked for. ``column`` is reached from the run by way of the relationships ``through``."""

    kind: Literal["text", "number", "time"]
    help: str
    sortable: bool = False
    column: SQLColumnExpression[Any] | None = field(default=None, repr=False, compare=False)
    through: tuple[InstrumentedAttribute[Any], ...] = field(default=(), repr=False, compare=False)


FIELDS: Mapping[str, Field] = {
    "id": Field("number", "number of the run in this database", True, RunRow.id),
    "uid": Field("text", "name of the run that is unique across databases", False, RunRow.uid),
    "backbone": Field("text", "name of the backbone", True, RunRow.backbone),
    "schedule": Field("text", "name of the schedule", True, RunRow.schedule),
    "dataset": Field("text", "name of the data set", False, DatasetRow.name, (RunRow.dataset,)),
    "fingerprint": Field("text", "digest of the data set", False, DatasetRow.fingerprint, (RunRow.dataset,)),
    "experiment": Field(
        "text",
        "name of an experiment that has the run",
        False,
        ExperimentRow.name,
        (RunRow.sweeps, SweepRow.experiment),
    ),
    "status": Field("text", ", ".join(get_args(RunStatus)), True),
    "seed": Field("number", "seed of the run", True, RunRow.seed),
    "weights": Field("text", "pretrained, file or random", True, RunRow.weights_kind),
    "precision": Field("text", "fp32, tf32 or bf16", False, _ConfigText("precision")),
    "device": Field("text", "cpu, or cuda:0", False, EnvironmentRow.device, (RunRow.environment,)),
    "device_name": Field("text", "model of the device", False, EnvironmentRow.device_name, (RunRow.environment,)),
    "torch": Field("text", "version of torch", False, EnvironmentRow.torch, (RunRow.environment,)),
    "tag": Field("text", "a tag on the run", False, TagRow.tag, (RunRow.tags,)),
    "note": Field("text", "note on the run, which may be empty", False, RunRow.note),
    "accuracy": Field("number", "accuracy on the test split: 0.86, or 86%", True, RunRow.test_accuracy),
    "auc": Field("number", "area under the ROC curve on the test split", True, RunRow.test_auc),
    "parameters": Field("number", "parameters of the network", True, RunRow.parameters),
    "created": Field(
        "time", "when the run was planned: 2026-11-22, or 2026-11-22T10:00, in UTC", True, RunRow.created_at
    ),
    "started": Field("time", "when its first attempt began", True, RunRow.started_at),
    "finished": Field("time", "when its last attempt ended", True, RunRow.finished_at),
    "hash": Field("text", "sha256 of the configuration", False, RunRow.config_hash),
    "failure": Field(
        "text", "kind of a failure of one of its attempts", False, AttemptRow.failure_kind, (RunRow.attempts,)
    ),
    _CONFIG: Field("text", "a value of the configuration: config.schedule.stages.0.epochs; a bare number is a number"),
}


def compile_where(text: str, status: ColumnElement[str]) -> ColumnElement[bool]:
    """Return a filter as a condition over :class:`RunRow`.

    Args:
        text: the filter.
        status: the expression of a run's status.

    Raises:
        ConfigError: the filter cannot be used; one line says where and why.
    """
    if len(text) > _LONGEST:
        raise _error(f"the filter has {len(text):,} characters; at most {_LONGEST:,} are taken")
    return _condition(_parse(text), status, negated=False, depth=0)


def sort_column(name: str, status: ColumnElement[str]) -> ColumnElement[Any]:
    """Return the column to sort runs by.

    Raises:
        ConfigError: there is no such field, or none that sorts.
    """
    found = FIELDS.get(name.lower())
    if found is None or not found.sortable:
        problem = f"no field is called {_shown(name)}" if found is None else f"runs cannot be sorted by {name.lower()}"
        near = did_you_mean(name.lower(), (known for known, each in FIELDS.items() if each.sortable))
        raise ConfigError(f"--sort: {problem}. {near}")
    column: ColumnElement[Any] = status if found.column is None else cast(ColumnElement[Any], found.column)
    return _Ordered(column) if found.kind == "text" else column


# --- from text to a tree ---------------------------------------------------------------------------------------------


@cache
def _parser() -> Lark:
    from lark import Lark

    # With this lexer a keyword is one wherever it stands, so that a forgotten value is noticed.
    return Lark(_GRAMMAR, parser="lalr", lexer="basic")


def _parse(text: str) -> Tree[Token]:
    from lark import UnexpectedCharacters, UnexpectedToken

    try:
        return _parser().parse(text)
    except UnexpectedCharacters as error:
        index = error.pos_in_stream or 0
        if text[index] in "'\"":
            raise _error(f"the quote at position {index + 1} is never closed") from None
        raise _error(
            f"{text[index]!r} at position {index + 1} is no part of a filter; quote a value that holds it"
        ) from None
    except UnexpectedToken as error:
        token, accepted = error.token, error.accepts or set()
        expected = next(words for name, words in _EXPECTED if name in accepted)
        if token.type == "$END":
            raise _error(f"the filter ends where {expected} should follow") from None
        hint = "; quote a value that holds spaces" if token.type == "WORD" and expected.startswith("and") else ""
        raise _error(f"expected {expected} at position {_position(token)}, found {_shown(token)}{hint}") from None


def _error(problem: str) -> ConfigError:
    return ConfigError(f"--where: {problem}")


def _position(token: Token) -> int:
    return (token.start_pos or 0) + 1


def _shown(text: str) -> str:
    return repr(str(text) if len(text) <= 60 else f"{text[:60]}…")


# --- from a tree to SQL ----------------------------------------------------------------------------------------------


def _condition(tree: Tree[Token], status: ColumnElement[str], *, negated: bool, depth: int) -> ColumnElement[bool]:
    if depth > _DEEPEST:
        raise _error(f"conditions are nested more than {_DEEPEST} deep; write fewer parentheses")
    while tree.data == "negation":
        tree, negated = cast("Tree[Token]", tree.children[-1]), not negated
    if tree.data in ("either", "both"):
        parts = [
            _condition(cast("Tree[Token]", child), status, negated=negated, depth=depth + 1) for child in tree.children
        ]
        return or_(*parts) if (tree.data == "either") != negated else and_(*parts)  # not (a or b): not a and not b
    name, word, *rest = tree.children
    values = cast("list[Token]", rest)
    if tree.data == "compared":
        negated ^= word in ("!=", "<>")
        sign = "=" if word in ("=", "==", "!=", "<>") else str(word)
    elif tree.data == "listed":
        negated ^= word is not None
        sign = "="
    else:
        negated ^= word is None
        sign = "known"
    condition = _holds(cast("Token", name), sign, values, status)
    if not negated:
        return condition
    return not_(condition) if isinstance(condition, Exists) else condition.is_not(true())  # NULL is not true


def _holds(name: Token, sign: str, values: Sequence[Token], status: ColumnElement[str]) -> ColumnElement[bool]:
    """Return the condition that a run has a value there, and one that compares so with one of ``values``."""
    if _CONFIG_PATH.fullmatch(name):
        return _config_holds(name, sign, values)
    found = FIELDS.get(name.lower())
    if found is None:
        near = did_you_mean(name.lower(), FIELDS)
        raise _error(f"no field is called {_shown(name)} (position {_position(name)}). {near}")
    column = status if found.column is None else found.column
    if found.column is None and sign != "~":
        _check_status(values)
    condition = _compared(column, sign, [_value(each, name, found.kind, sign) for each in values])
    for link in reversed(found.through):
        condition = link.any(condition) if link.property.uselist else link.has(condition)
    return condition


def _config_holds(name: Token, sign: str, values: Sequence[Token]) -> ColumnElement[bool]:
    path = [int(part) if part.isdigit() else part for part in name.split(".")[1:]]
    if sign == "known":
        return _ConfigKind(*path).is_not(None)
    numbers: list[Token] = []
    texts: list[Token] = []
    for each in values:
        bare = each.type == "WORD" and sign != "~"
        (numbers if bare and _number(each) is not None else texts).append(each)
    parts = [
        _compared(column(*path), sign, [_value(each, name, kind, sign) for each in some])
        for column, kind, some in ((_ConfigNumber, "number", numbers), (_ConfigText, "text", texts))
        if some
    ]
    return or_(*parts)


def _compared(column: SQLColumnExpression[Any], sign: str, values: Sequence[Any]) -> ColumnElement[bool]:
    if sign == "known":
        return column.is_not(None)
    if sign == "=":
        return column.in_([_bound(value) for value in values])
    value = values[0]
    if sign == "~":
        return type_coerce(column, PlainText()).icontains(value, autoescape=True)
    return _COMPARE[sign](_Ordered(column) if isinstance(value, str) else column, _bound(value))


def _bound(value: str | float | datetime) -> ColumnElement[Any]:
    match value:
        case str():
            return literal(value, PlainText())
        case int():
            return literal(value, BigInteger())
        case float():
            return literal(value, Double())
        case _:
            return literal(value, UtcDateTime())


# --- values ----------------------------------------------------------------------------------------------------------


def _value(token: Token, name: str, kind: str, sign: str) -> str | float | datetime:
    text = _text(token)
    if kind == "text":
        return text
    if sign == "~":
        raise _error(f"~ looks into text, and {name} is a {kind} (position {_position(token)})")
    value = _number(token) if kind == "number" else _time(text)
    if value is None:
        example = "" if kind == "number" else " such as 2026-11-22 or 2026-11-22T10:00"
        raise _error(f"{name} is compared with a {kind}{example}, not {_shown(text)} (position {_position(token)})")
    return value


def _text(token: Token) -> str:
    if token.type == "WORD":
        return str(token)
    # A backslash stands for itself but before a quote or another, so that paths of Windows can be written.
    quote = token[0]
    return re.sub(rf"{quote}{quote}|\\([\\'\"])", lambda match: match[1] or quote, token[1:-1])


def _number(token: Token) -> float | None:
    """Return what ``0.86``, ``86%`` or ``1e6`` says: an integer where it fits into 64 bits, else a double."""
    text = _text(token)
    if not _NUMBER.fullmatch(text):
        return None
    if len(text) < 30 and text.lstrip("+-").isdigit() and -(2**63) <= int(text) < 2**63:
        return int(text)
    number = float(text.replace("%", "e-2"))
    if math.isinf(number):
        raise _error(f"the number {_shown(text)} is too large (position {_position(token)})")
    return number


def _time(text: str) -> datetime | None:
    try:
        time = datetime.fromisoformat(text)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):  # the first hour of the year 1 may lie before it in UTC
        return None


def _check_status(values: Sequence[Token]) -> None:
    known = get_args(RunStatus)
    for value in values:
        if _text(value) not in known:
            near = did_you_mean(_text(value), known)
            raise _error(f"no status is called {_shown(_text(value))} (position {_position(value)}). {near}")
