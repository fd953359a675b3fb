"""What both backends do alike about a program's sites: their names, and checks of where fitting starts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError

__all__ = ["EDGE", "Names", "check_sites", "dims_of", "start_of"]

# How far from its edges, which have no image, a simplex is kept where it is mapped to real numbers.
EDGE = 1e-12


class Names:
    """The names of a run's sites and plates."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self._sites: set[str] = set()
        self.given: dict[str, str] = {}
        """What the program called each plate."""

    def site(self, name: str) -> str:
        """The name; InputError where a plate has it: draws and their axes could not be told apart."""
        self._sites.add(name)
        return self._one_kind(name)

    def plate(self, name: str) -> str:
        """A name of its own for each plate, "cluster", "cluster_2", ..., as both backends want it."""
        times = self._times[name] = self._times.get(name, 0) + 1
        unique = name if times == 1 else f"{name}_{times}"
        self.given[unique] = name
        return self._one_kind(unique)

    def _one_kind(self, name: str) -> str:
        if name in self._sites and name in self.given:
            raise InputError(f"{name!r} names a plate and a site of the program: give one of them another name")
        return name


def dims_of(site: dict[str, Any], names: Names) -> tuple[str, ...]:
    """Names of a traced site's axes: those of its plates, and "" for axes that have none."""
    axes = [""] * len(site["fn"].shape())
    events = len(site["fn"].event_shape)
    for frame in site["cond_indep_stack"]:
        if frame.dim is not None:
            axes[frame.dim - events] = names.given.get(frame.name, frame.name)
    return tuple(axes)


def start_of(site: dict[str, Any]) -> Any:
    """Where fitting is to start at a traced site, before it is broadcast: its `init`, or the mean of its distribution.

    Raises:
        InputError: an `init` of a shape that does not fit the site.
    """
    given = site["infer"].get("init")
    if given is None:
        try:
            return site["fn"].mean
        except NotImplementedError:
            return np.nan  # which `check_sites` tells of
    shape = tuple(site["fn"].shape())
    try:
        np.broadcast_to(given, shape)
    except ValueError:
        raise InputError(
            f"site {site['name']!r} has shape {shape}, its init {np.shape(given)}: make them fit"
        ) from None
    return given


def check_sites(model: str, values: Mapping[str, Any], supports: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """Where fitting starts, site by site, as NumPy's arrays.

    Args:
        model: its name, for the message.
        values: site -> where fitting is to start, in a backend's array.
        supports: site -> constraint, of that backend.

    Raises:
        InputError: a site is discrete, or its start is not finite or lies outside of its support.
    """
    start = {}
    for name, given in values.items():
        value = start[name] = np.asarray(given).copy()
        if supports[name].is_discrete:
            raise InputError(
                f"model {model!r}: site {name!r} is discrete, and no engine climbs a discrete parameter: sum it out in "
                "the program, or make it a state of the chain"
            )
        if not np.all(np.isfinite(value)):
            raise InputError(
                f"model {model!r}: site {name!r} has no finite mean to start from: give ppl.sample an init"
            )
        if not np.all(np.asarray(supports[name].check(given))):
            shown = np.array2string(value, precision=4, threshold=8)
            raise InputError(f"model {model!r}: site {name!r} starts at {shown}, outside of its support: mend its init")
    return start
