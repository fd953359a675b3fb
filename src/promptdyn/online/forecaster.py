"""What forecasts a pool of prompts, whatever it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from promptdyn.online.filter import OnlineFilter
from promptdyn.prompts import Columns, Prompts

__all__ = ["Forecaster"]


@runtime_checkable
class Forecaster(Protocol):
    """An `OnlineModel`, a `Fit`, a `Refitted`, or whatever else has these. A program becomes one by `promptdyn.fit`."""

    @property
    def name(self) -> str:
        """What it is called in texts."""

    @property
    def cluster(self) -> Columns | None:
        """Column(s) of the pool whose labels it asks for; None for none."""

    @property
    def features(self) -> Columns | None:
        """Column(s) of the pool that it reads features from; None for none."""

    def online(self, prompts: Prompts | Sequence[str]) -> OnlineFilter:
        """Start filtering a pool; InputError where the pool has not the columns."""
