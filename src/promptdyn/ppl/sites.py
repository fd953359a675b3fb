"""Code that backends share: names of a program's sites, and checks of what it draws and where a fit starts."""

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

# A simplex is kept so far from its edges when it is mapped to real numbers, since edges have no image.
EDGE = 1e-12
# A program is tried at its start and at points around it. How far each site moves depends on its support:
DEVIATIONS = 3.0  # real numbers: so many standard deviations of the prior,
FARTHEST = 10.0  # but no farther than this, where a logistic function is 1 already
FACTOR = 8.0  # above a lower bound: the distance to the bound is multiplied or divided by this
SHARE = 0.9  # between two bounds, or towards a corner of a simplex: this share of the way
# Names of axes and of counts in a fit's data, which sites and plates of a program must not have.
TAKEN = ("chain", "draw", "group", "history", "num_successes")
AXES = ("cluster", "prompt", "state", "next_state", "exposure", "step")


class Names:
    """The names of a program's sites and plates in one run."""

    def __init__(self) -> None:
        self._times: dict[str, int] = {}
        self.sites: set[str] = set()
        self.plates: dict[str, str] = {}
        """Unique name of a plate -> the program's name for it."""

    def site(self, name: str) -> str:
        """Return a site's name; raises InputError if a plate has it, since draws and axes need different names."""
        self.sites.add(name)
        return self._one_kind(name)

    def plate(self, name: str) -> str:
        """Return a unique name for each plate, "cluster", "cluster_2", ..., as both backends need."""
        times = self._times[name] = self._times.get(name, 0) + 1
        unique = name if times == 1 else f"{name}_{times}"
        self.plates[unique] = name
        return self._one_kind(unique)

    def _one_kind(self, name: str) -> str:
        if name in self.sites and name in self.plates:
            raise InputError(f"{name!r} names a plate and a site of the program: give one of them another name")
        return name


@contextmanager
def only_what_is_handed_in(model: str, *absent: str) -> Iterator[None]:
    """Run a program, and if it fails inside a package that it must not use, say what to use instead.

    Args:
        model: name of the model, for the message.
        absent: names of the packages.

    Raises:
        InputError: the program calls such a package directly.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        modules = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
        modules.append(type(error).__module__)
        # JAX removes its own frames from tracebacks, and torch's functions have no frames.
        if any("JAX has removed its internal frames" in note for note in getattr(error, "__notes__", ())):
            modules.append("jax")
        if "must be Tensor" in str(error):
            modules.append("torch")
        package = next((name for name in (module.partition(".")[0] for module in modules) if name in absent), None)
        if package is None:
            raise
        raise _direct_use(model, f"calls {package} directly") from error


def _direct_use(model: str, problem: str) -> InputError:
    return InputError(
        f"model {model!r}: its program {problem}: draw with ppl.sample and ppl.dist, compute with ppl.xp, so that it "
        "runs in NumPyro, in Pyro, and in NumPy alone"
    )


def dims_of(model: str, sites: Mapping[str, dict[str, Any]], names: Names, pool: Pool) -> dict[str, tuple[str, ...]]:
    """Return the names of each traced site's axes: those of its plates, and "" for other axes.

    Raises:
        InputError: a site that was not drawn with `ppl.sample`; a plate "cluster" or "prompt" of another size than the
            pool's; a name that the data of a fit uses for something else.
    """
    reserved_names = {*TAKEN, *AXES} & names.sites | {*TAKEN} & {*names.plates.values()}
    if reserved_names:
        raise InputError(
            f"model {model!r}: {min(reserved_names)!r} is a fit's name of an axis or of counts: give the site or plate "
            "another name"
        )
    dims = {}
    sizes = {"cluster": pool.num_clusters, "prompt": pool.num_prompts}
    for name, site in sites.items():
        if name not in names.sites:
            raise _direct_use(model, f"draws {name!r} by other means than ppl.sample")
        axes = [""] * len(site["fn"].shape())
        events = len(site["fn"].event_shape)
        for frame in site["cond_indep_stack"]:
            plate = names.plates.get(frame.name, frame.name)
            if sizes.get(plate, frame.size) != frame.size:
                raise InputError(
                    f"model {model!r}: its program's plate {plate!r} has {frame.size} entries, and the pool "
                    f"{sizes[plate]} {plate}s: give it pool.num_{plate}s, or another name"
                )
            if frame.dim is not None:
                axes[frame.dim - events] = plate
        dims[name] = tuple(axes)
    return dims


def spread_of(site: dict[str, Any]) -> Any:
    """Return the prior variance of a traced site of real numbers, which broadcasts to its value; NaN for others."""
    try:
        return site["fn"].variance if type(_base(site["fn"].support)).__name__ == "_Real" else np.nan
    except NotImplementedError:
        return np.nan


def around(start: Params, supports: Mapping[str, Any], spreads: Mapping[str, Any]) -> list[Params]:
    """Return points in several directions from the start, which a fit may reach, inside every site's support.

    Args:
        start: site -> value at which a fit starts.
        supports: site -> constraint of a backend.
        spreads: site -> what `spread_of` returned.
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
    kind = type(support).__name__  # the constraints have the same names in both backends
    if kind == "_Real":
        deviation = np.sqrt(np.broadcast_to(spread, value.shape))
        return value + up * np.where(np.isfinite(deviation), np.minimum(DEVIATIONS * deviation, FARTHEST), 1.0)
    if kind == "_Simplex":
        # Nearly all probability on one entry, the largest or the smallest, by the first sign.
        rows = value.reshape(-1, value.shape[-1])
        entry = np.where(up.reshape(rows.shape)[:, 0] > 0, rows.argmax(axis=1), rows.argmin(axis=1))
        corner = np.eye(rows.shape[1])[entry]
        return (SHARE * corner + (1 - SHARE) * rows).reshape(value.shape)
    low, high = (getattr(support, f"{end}_bound", None) for end in ("lower", "upper"))
    if low is None:
        return value
    low = np.asarray(low, float)
    if high is None:
        return low + (value - low) * FACTOR**up
    high = np.asarray(high, float)
    return value + SHARE * np.where(up > 0, high - value, low - value)


def _base(support: Any) -> Any:
    """Return the constraint of single values, or of rows."""
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def start_of(site: dict[str, Any]) -> Any:
    """Return the value at which a fit starts at a traced site: its `init`, or its distribution's mean.

    The value broadcasts to the site's shape.

    Raises:
        InputError: the shape of the `init` does not fit the site.
    """
    init = site["infer"].get("init")
    if init is None:
        try:
            return site["fn"].mean
        except NotImplementedError:
            return np.nan  # `check_sites` reports it
    shape = tuple(site["fn"].shape())
    try:
        np.broadcast_to(init, shape)
    except ValueError:
        raise InputError(f"site {site['name']!r} has shape {shape}, its init {np.shape(init)}: make them fit") from None
    return init


def check_sites(model: str, values: Mapping[str, Any], supports: Mapping[str, Any]) -> dict[str, NDArray[np.float64]]:
    """Return the values at which a fit starts, as NumPy arrays.

    Args:
        model: name of the model, for messages.
        values: site -> value at which a fit starts, in a backend's array.
        supports: site -> constraint of that backend.

    Raises:
        InputError: a site is discrete, or its value is not finite or lies outside its support.
    """
    start = {}
    for name, array in values.items():
        value = start[name] = np.asarray(array).copy()
        if supports[name].is_discrete:
            raise InputError(
                f"model {model!r}: site {name!r} is discrete, and no engine climbs a discrete parameter: sum it out in "
                "the program, or make it a state of the chain"
            )
        if not np.all(np.isfinite(value)):
            raise InputError(
                f"model {model!r}: site {name!r} has no finite mean to start from: give ppl.sample an init"
            )
        if not np.all(np.asarray(supports[name].check(array))):
            text = np.array2string(value, precision=4, threshold=8)
            raise InputError(f"model {model!r}: site {name!r} starts at {text}, outside its support: mend its init")
    return start
