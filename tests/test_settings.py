"""What a setting may be, told by its annotation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pytest

from promptdyn.errors import InputError
from promptdyn.readers import read_history
from promptdyn.settings import check_setting, kinds_of

if TYPE_CHECKING:
    from decimal import Decimal


class Mode(StrEnum):
    FAST = "fast"


FIT = [
    (int, [3, np.int64(3), np.float64(2).astype(int)], [3.0, True, "3", None, np.nan]),
    (float, [0.5, 3, np.float32(1)], ["0.5", True, None, float("inf"), [0.5]]),
    (bool, [True], [1, "true"]),
    (str, ["x"], [3, None, ["x"]]),
    (float | None, [None, 2], ["much"]),
    (Literal["a", "b"], ["a"], ["c", 1, None, ["a"]]),
    (Literal[1, 2], [1], [3, "1"]),
    (Literal["a"] | float, ["a", 0.5], ["b", [1.0]]),
    (str | Sequence[str], ["x", ["x"], ("x", "y")], [3, {"x": 1}]),
    (tuple[str, ...] | None, [("x",), ["x"], None], ["x", 3]),
    (Mapping[str, str], [{"a": "b"}], ["a=b", [("a", "b")]]),
    (Callable[[Any], float], [abs], ["abs"]),
    (np.ndarray, [np.ones(2)], [[1.0]]),
    (Any, [object()], []),
    (Mode, ["fast", Mode.FAST], []),  # as a text or a file has it: the class tells
    ("of a name that is not known", [object()], []),
]


@pytest.mark.parametrize(("kind", "good", "bad"), FIT, ids=[str(kind) for kind, *_ in FIT])
def test_a_value_is_of_its_kind_or_is_told(kind: Any, good: list[Any], bad: list[Any]) -> None:
    for value in good:
        check_setting("model 'm': x", value, kind)
    for value in bad:
        with pytest.raises(InputError, match=r"model 'm': x=.* is (not|none of) "):
            check_setting("model 'm': x", value, kind)


def test_kinds_are_said_in_words() -> None:
    for kind, words in [
        (float | str | Sequence[str] | None, "a finite number or a word or a list or none"),
        (Mapping[str, str] | np.ndarray, "a mapping or an array"),
        (Literal["a", "b"] | bool, "one of a, b or true or false"),
    ]:
        with pytest.raises(InputError, match=f"x=.* is not {words}$"):
            check_setting("x", object(), kind)
    with pytest.raises(InputError, match=r"^x='c' is none of a, b$"):
        check_setting("x", "c", Literal["a", "b"])


def test_kinds_are_known_where_others_are_names_for_type_checkers_alone() -> None:
    @dataclass
    class Mine:
        number: int
        label: str | None
        price: Decimal

    kinds = kinds_of(Mine, {field.name: field for field in fields(Mine)})
    assert kinds == {"number": int, "label": str | None, "price": Any}


def test_an_option_of_a_reader_that_is_of_another_kind_is_told(tmp_path) -> None:
    (tmp_path / "log.jsonl").write_text('{"prompt": "a", "score": 1.0, "step": 1}\n')
    with pytest.raises(InputError, match="reader 'rollouts': reward=3 is not a word or a list or none"):
        read_history(tmp_path / "log.jsonl", "rollouts", reward=3)
    with pytest.raises(InputError, match="reader 'rollouts': skip_bad='yes' is not true or false"):
        read_history(tmp_path / "log.jsonl", "rollouts", skip_bad="yes")
