"""TOML tables → the dataclasses of the schema, with errors that name the key and the way out."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from reprlib import repr as shown
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from hw_profiles.schema import Choice, ProfileError, Quantity, Source
from hw_profiles.units import POWER_UNITS, unit_of

T = TypeVar("T")


class Reader:
    """Reads one file: knows its name and its [sources]."""

    def __init__(self, where: str, sources: Mapping[str, Any]) -> None:
        self._where = where
        for key, text in sources.items():
            if not isinstance(text, str) or not text.strip():
                raise self._error(f"sources.{key}", "must be a citation in words or an address")
        self._sources = dict(sources)

    def table(self, data: Any, cls: type[T], path: str) -> T:
        """A table whose keys are the fields of the dataclass `cls`."""
        if not isinstance(data, dict):
            raise self._error(path, f"must be a table, got {shown(data)}")
        known = fields(cast(Any, cls))
        self._check_keys(data, known, path)
        hints = _type_hints(cast(Any, cls))
        return cls(
            **{
                f.name: self._value(data[f.name], hints[f.name], _join(path, f.name))
                for f in known
                if f.name in data
            }
        )

    def _check_keys(self, data: Mapping[str, Any], known: Iterable[Field[Any]], path: str) -> None:
        names = {f.name: f for f in known}
        for key in data:
            if key not in names:
                known_words = ", ".join(names)
                hint = nearest(key, names)
                text = f"is not a key of the schema{hint}. Keys here: {known_words}"
                raise self._error(_join(path, key), text)
        for name, field in names.items():
            if name not in data and field.default is MISSING and field.default_factory is MISSING:
                raise self._error(_join(path, name), "is missing; it must be given")

    def _value(self, value: Any, hint: Any, path: str) -> Any:
        origin, args = get_origin(hint), get_args(hint)
        if origin in (Union, UnionType):  # only `X | None` occurs; TOML has no null
            return self._value(value, next(a for a in args if a is not NoneType), path)
        if origin is tuple:
            return self._list(value, args[0], path)
        if origin is Choice:
            return self._choice(value, args[0], path)
        if origin is Literal:
            return self._literal(value, args, path)
        return self._single(value, hint, path)

    def _single(self, value: Any, hint: Any, path: str) -> Any:
        if hint is Quantity:
            return self._quantity(value, path)
        if hint is Source:
            return self._source(value, path)
        if is_dataclass(hint):
            return self.table(value, cast("type[Any]", hint), path)
        if type(value) is not hint:
            raise self._error(path, f"must be of type {hint.__name__}, got {shown(value)}")
        return value

    def _list(self, value: Any, inner: Any, path: str) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise self._error(path, f"must be a list, got {shown(value)}")
        return tuple(self._value(v, inner, f"{path}[{i}]") for i, v in enumerate(value))

    def _literal(self, value: Any, allowed: tuple[Any, ...], path: str) -> Any:
        if not any(value == a and type(value) is type(a) for a in allowed):
            words = ", ".join(map(str, allowed))
            hint = nearest(shown(value), map(str, allowed))
            raise self._error(path, f"must be one of {words}; got {shown(value)}{hint}")
        return value

    def _source(self, value: Any, path: str) -> Source:
        if not isinstance(value, str) or value not in self._sources:
            hint = nearest(shown(value), self._sources)
            raise self._error(path, f"names no entry of [sources]: {shown(value)}{hint}")
        return Source(self._sources[value])

    def _choice(self, value: Any, inner: Any, path: str) -> Choice[Any]:
        if not isinstance(value, dict) or value.keys() != {"value", "why"}:
            raise self._error(path, f"must be a table with `value` and `why`, got {shown(value)}")
        why = self._value(value["why"], str, f"{path}.why")
        return Choice(self._value(value["value"], inner, f"{path}.value"), why)

    def _quantity(self, data: Any, path: str) -> Quantity:
        key = path.rpartition(".")[2]
        if not isinstance(data, dict):
            raise self._error(
                path, f"must be a table with value, kind and source, got {shown(data)}"
            )
        numbers = {k: data[k] for k in ("value", "low", "high") if k in data}
        for name, number in numbers.items():
            self._check_number(number, key, f"{path}.{name}")
        # The annotations of the numbers are float; TOML's 4 and 4.0 are the same to us.
        read = self.table(data | {k: float(v) for k, v in numbers.items()}, Quantity, path)
        low = read.value if read.low is None else read.low
        high = read.value if read.high is None else read.high
        if not low <= read.value <= high:
            raise self._error(path, f"value {read.value} lies outside low {low} … high {high}")
        if unit_of(key) in POWER_UNITS and read.measuring_point is None:
            raise self._error(path, "is power or energy and needs a measuring_point")
        if unit_of(key) not in POWER_UNITS and read.measuring_point is not None:
            raise self._error(path, "is not power or energy: remove its measuring_point")
        return read

    def _check_number(self, number: Any, key: str, path: str) -> None:
        if isinstance(number, bool) or not isinstance(number, (int, float)):
            raise self._error(path, f"must be a number, got {shown(number)}")
        if not 0 <= number <= sys.float_info.max:
            raise self._error(path, f"must be finite and not negative, got {shown(number)}")
        if unit_of(key) == "num_" and (number < 1 or number != int(number)):
            raise self._error(path, f"is a count and must be a whole number from 1, got {number}")

    def _error(self, path: str, text: str) -> ProfileError:
        return ProfileError(f"{self._where}: `{path}` {text}")


def nearest(word: str, words: Iterable[str]) -> str:
    """`; did you mean 'x'?` with the most similar of the words, or nothing."""
    found = difflib.get_close_matches(word, list(words), n=1, cutoff=0.5)
    return f"; did you mean {found[0]!r}?" if found else ""


@cache
def _type_hints(cls: type) -> dict[str, Any]:
    # Resolving the annotations takes most of the reading time; they never change.
    return get_type_hints(cls)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
