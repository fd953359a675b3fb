"""Call ArviZ 0.2x and 1.x, which differ in one function."""

from __future__ import annotations

import warnings
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from promptdyn.errors import install_hint

if TYPE_CHECKING:
    import arviz
    from xarray import Dataset

    class InferenceData(arviz.InferenceData):
        """ArviZ's class with the groups that a fit may have, for type checkers: ArviZ adds groups at run time."""

        posterior: Dataset
        prior: Dataset
        sample_stats: Dataset
        log_likelihood: Dataset
        observed_data: Dataset
        constant_data: Dataset
        posterior_predictive: Dataset
        prior_predictive: Dataset


__all__ = ["from_dict", "load_arviz"]


@cache
def load_arviz() -> ModuleType:
    """Import ArviZ without its warnings."""
    with install_hint(), warnings.catch_warnings():
        # ArviZ 0.23 announces 1.0 each time it is imported.
        warnings.filterwarnings("ignore", category=FutureWarning)
        import arviz
    return arviz


def from_dict(
    groups: dict[str, dict[str, NDArray]], coords: dict[str, Any], dims: dict[str, list[str]]
) -> InferenceData:
    """Return an InferenceData (ArviZ 0.2x) or a DataTree (1.x) of named groups."""
    az = load_arviz()
    if hasattr(az, "InferenceData"):
        return az.from_dict(**groups, coords=coords, dims=dims)
    return az.from_dict(groups, coords=coords, dims=dims)
