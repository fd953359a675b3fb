"""Engines, which fit models. A new engine is a file here, its export, and its entry in `METHODS`."""

from collections.abc import Callable

from promptdyn.inference.engines.base import Engine, Result
from promptdyn.inference.engines.em import EM
from promptdyn.inference.engines.map import MAP
from promptdyn.inference.engines.nuts import NUTS
from promptdyn.inference.engines.svi import SVI
from promptdyn.registry import Registry, subclass_fault

__all__ = ["EM", "MAP", "METHODS", "NUTS", "SVI", "Engine", "Result"]

METHODS: Registry[Callable[..., Engine], Engine] = Registry(
    "method", EM, MAP, SVI, NUTS, fault=subclass_fault("engine", Engine, "promptdyn.inference")
)
