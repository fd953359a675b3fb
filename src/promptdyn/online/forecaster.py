"""The interface of everything that forecasts a pool of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from promptdyn.online.filter import OnlineFilter
from promptdyn.prompts import Columns, Prompts

__all__ = ["Forecaster"]


@runtime_checkable
class Forecaster(Protocol):
    """An `OnlineModel`, a `Fit`, a `Refitted`, or any object with these members. `fit` turns a program into one."""

    @property
    def name(self) -> str:
        """Name in texts."""

    @property
    def cluster(self) -> Columns | None:
        """Column(s) of the pool whose labels it needs; None if it needs none."""

    @property
    def features(self) -> Columns | None:
        """Column(s) of the pool from which it takes features; None if it takes none."""

    def online(self, prompts: Prompts | Sequence[str]) -> OnlineFilter:
        """Start to filter a pool; raises InputError if the pool lacks the columns."""
