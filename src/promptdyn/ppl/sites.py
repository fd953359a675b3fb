"""What backends do alike about a program and its sites: names, and checks of what is drawn and where fitting starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdyn.errors import InputError
from promptdyn.models.base import Params, Pool

__all__ = ["EDGE", "Names", "around", "check_sites", "dims_of", "only_what_is_handed_in", "spread_of", "start_of"]

# How far from its edges, which have no image, a simplex is kept where it is mapped to real numbers.
EDGE = 1e-12
# How far off the start a program is tried: so many prior standard deviations of a site of real numbers, and not further
# than MOST, where a logistic function is 1; by a factor above a lower bound; most of the way to a bound or corner.
DEVIATIONS, MOST, FACTOR, NEAR = 3.0, 10.0, 8.0, 0.9
# What a fit's data calls its axes and its counts: names that a site or plate of a program would take from them.
TAKEN = ("chain", "draw", "group", "history", "num_successes")
AXES = ("cluster", "prompt", "state", "next_state", "exposure", "step")


class Names:
    """The names of a run's sites and plates."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self.sites: set[str] = set()
        self.given: dict[str, str] = {}
        """What the program called each plate."""

    def site(self, name: str) -> str:
        """The name; InputError where a plate has it: draws and their axes could not be told apart."""
        self.sites.add(name)
        return self._one_kind(name)

    def plate(self, name: str) -> str:
        """A name of its own for each plate, "cluster", "cluster_2", ..., as both backends want it."""
        times = self._times[name] = self._times.get(name, 0) + 1
        unique = name if times == 1 else f"{name}_{times}"
        self.given[unique] = name
        return self._one_kind(unique)

    def _one_kind(self, name: str) -> str:
        if name in self.sites and name in self.given:
            raise InputError(f"{name!r} names a plate and a site of the program: give one of them another name")
        return name


@contextmanager
def only_what_is_handed_in(model: str, *absent: str) -> Iterator[None]:
    """Run a program where packages are not at hand, and say of one that fails in such a package what it is to use.

    Args:
        model: its name, for the message.
        absent: the packages.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        modules = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
        modules.append(type(error).__module__)
        # JAX takes its own frames out of tracebacks, and torch's functions have none.
        if any("JAX has removed its internal frames" in note for note in getattr(error, "__notes__", ())):
            modules.append("jax")
        if "must be Tensor" in str(error):
            modules.append("torch")
        found = next((name for name in (module.partition(".")[0] for module in modules) if name in absent), None)
        if found is None:
            raise
        raise _direct(model, f"calls {found} directly") from error


def _direct(model: str, what: str) -> InputError:
    return InputError(
        f"model {model!r}: its program {what}: draw with ppl.sample and ppl.dist, compute with ppl.xp, so that it runs "
        "in NumPyro, in Pyro, and in NumPy alone"
    )


def dims_of(model: str, sites: Mapping[str, dict[str, Any]], names: Names, pool: Pool) -> dict[str, tuple[str, ...]]:
    """Of each traced site the names of its axes: those of its plates, and "" for axes that have none.

    Raises:
        InputError: a site that was drawn by other means than `ppl.sample`; a plate that is called as what it is not of;
            a name that the data of a fit has for something else.
    """
    taken = {*TAKEN, *AXES} & names.sites | {*TAKEN} & {*names.given.values()}
    if taken:
        raise InputError(
            f"model {model!r}: {min(taken)!r} is what a fit calls an axis or counts: give the program's site or plate "
            "another name"
        )
    found = {}
    sizes = {"cluster": pool.num_clusters, "prompt": pool.num_prompts}
    for name, site in sites.items():
        if name not in names.sites:
            raise _direct(model, f"draws {name!r} by other means than ppl.sample")
        axes = [""] * len(site["fn"].shape())
        events = len(site["fn"].event_shape)
        for frame in site["cond_indep_stack"]:
            plate = names.given.get(frame.name, frame.name)
            if sizes.get(plate, frame.size) != frame.size:
                raise InputError(
                    f"model {model!r}: its program's plate {plate!r} has {frame.size} entries, and the pool "
                    f"{sizes[plate]} {plate}s: give it pool.num_{plate}s, or another name"
                )
            if frame.dim is not None:
                axes[frame.dim - events] = plate
        found[name] = tuple(axes)
    return found


def spread_of(site: dict[str, Any]) -> Any:
    """The prior variance of a traced site of real numbers, to be broadcast to its value; NaN of any other."""
    try:
        return site["fn"].variance if type(_base(site["fn"].support)).__name__ == "_Real" else np.nan
    except NotImplementedError:
        return np.nan


def around(start: Params, supports: Mapping[str, Any], spreads: Mapping[str, Any]) -> list[Params]:
    """Points off the start, each way, where fitting may come to: inside of every site's support.

    Args:
        start: site -> where fitting starts.
        supports: site -> constraint, of a backend.
        spreads: site -> what `spread_of` gives.
    """
    rng = np.random.default_rng(0)
    points: list[Params] = []
    for sign in (1.0, -1.0, 0.0, 0.0):
        point = {}
        for name, value in start.items():
            up = np.full(value.shape, sign) if sign else rng.choice((-1.0, 1.0), value.shape)
            point[name] = _moved(value, up, supports[name], np.asarray(spreads[name], float))
        points.append(point)
    return points


def _moved(value: NDArray, up: NDArray, support: Any, spread: NDArray) -> NDArray:
    support = _base(support)
    kind = type(support).__name__  # both backends call their constraints alike
    if kind == "_Real":
        deviation = np.sqrt(np.broadcast_to(spread, value.shape))
        return value + up * np.where(np.isfinite(deviation), np.minimum(DEVIATIONS * deviation, MOST), 1.0)
    if kind == "_Simplex":
        # Nearly all on one entry: the largest or the smallest, by the first sign.
        rows = value.reshape(-1, value.shape[-1])
        at = np.where(up.reshape(rows.shape)[:, 0] > 0, rows.argmax(axis=1), rows.argmin(axis=1))
        corner = np.eye(rows.shape[1])[at]
        return (NEAR * corner + (1 - NEAR) * rows).reshape(value.shape)
    low, high = (getattr(support, f"{end}_bound", None) for end in ("lower", "upper"))
    if low is None:
        return value
    low = np.asarray(low, float)
    if high is None:
        return low + (value - low) * FACTOR**up
    high = np.asarray(high, float)
    return value + NEAR * np.where(up > 0, high - value, low - value)


def _base(support: Any) -> Any:
    """The constraint of single values, or of rows."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


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
