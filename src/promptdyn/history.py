"""Reward histories: how many of its rollouts each prompt solved, step by step, checked and stored as columns.

The sparse form (`RewardHistory`) has one row per prompt and step that was rolled out; the dense form (`DenseHistory`)
is what array kernels run on. Knows nothing of log formats other than its own Parquet file, of models, or of trainers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from promptdyn._columns import MAX_ROLLOUTS, OWN, REWARDS, Rows, as_array, check_lengths, no_rows, renamed
from promptdyn.errors import InputError
from promptdyn.storage import atomic

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["DenseHistory", "RewardHistory", "cross", "uncross"]

VERSION = 2  # 2: reward_mean, reward_std
VERSION_KEY = b"promptdyn.history.version"
SUCCESS_KEY = b"promptdyn.history.success"
POOL_SIZE_KEY = b"promptdyn.history.pool_size"
# Distinct (n, k) of a dense history: every model tabulates its likelihoods over them.
MAX_SYMBOLS = 2**20
# Fewer groups that all vary may do so by chance.
FEW_GROUPS = 20


class DenseHistory(NamedTuple):
    """A history as arrays over (step, prompt).

    The time axis has the steps that have a row, in order: a step that was never logged takes no place on it, so a model
    moves once from each logged step to the next.
    """

    symbols: NDArray[np.unsignedinteger[Any]]  # (step prompt) index into counts; 0 = not observed
    exposure: NDArray[np.uint8]  # (step prompt) 0 idle, 1 trained on, 2 trained on with k = 0 or k = n
    counts: NDArray[np.int32]  # (symbol, 2) num_rollouts, num_successes: (0, 0), then each n with its k from 0 to n
    cluster: NDArray[np.int32]  # (prompt,) index into cluster_names
    cluster_names: tuple[str, ...]  # sorted labels; ("all",) without a cluster column
    prompt_ids: NDArray[np.object_]  # (prompt,)
    steps: NDArray[np.int32]  # (step,)


@dataclass(frozen=True, eq=False, repr=False)
class RewardHistory:
    """Success counts of a pool of prompts, one row per prompt and step, sorted by step.

    Make one with `from_columns`, `from_table`, `from_records` or `from_parquet`, which check it; the plain constructor
    does not.

    Attributes:
        prompt_ids: (prompt,) unique ids, in the order of their first rows.
        prompt: (row,) index into `prompt_ids`.
        step: (row,) training step, ascending; rows of a step keep the order of their source.
        num_rollouts: (row,) n, at least 1.
        num_successes: (row,) k, 0 <= k <= n.
        trained: (row,) whether the row fed the gradient.
        clusters: column name -> (prompt,) labels.
        success: the rule by which successes were counted, as `promptdyn.success` writes it; None where it is not known.
        reward_mean: (row,) mean of the group's folded rewards, NaN where it is not known; None where no row has one.
        reward_std: (row,) their standard deviation, of divisor n - 1 as TRL logs it (0 for one rollout), likewise.
        pool_size: prompts that the run could choose from, with those that it never rolled out; None where that is not
            known, as of most logs.
    """

    prompt_ids: NDArray[np.object_]
    prompt: NDArray[np.int32]
    step: NDArray[np.int32]
    num_rollouts: NDArray[np.int32]
    num_successes: NDArray[np.int32]
    trained: NDArray[np.bool_]
    clusters: Mapping[str, NDArray[np.object_]]
    success: str | None = None
    reward_mean: NDArray[np.float32] | None = None
    reward_std: NDArray[np.float32] | None = None
    pool_size: int | None = None

    @classmethod
    def from_columns(
        cls,
        step: ArrayLike,
        prompt_id: ArrayLike,
        num_rollouts: ArrayLike,
        num_successes: ArrayLike,
        trained: ArrayLike | None = None,
        clusters: Mapping[str, ArrayLike] | None = None,
        source: str = "history",
        place: Callable[[int], str] | None = None,
        success: str | None = None,
        reward_mean: ArrayLike | None = None,
        reward_std: ArrayLike | None = None,
        pool_size: int | None = None,
    ) -> RewardHistory:
        """Check columns of equal length and build a history of them.

        Args:
            step: (row,) integers >= 0, in any order.
            prompt_id: (row,) strings, or anything that `str` makes unique.
            num_rollouts: (row,) integers from 1 to a million.
            num_successes: (row,) integers from 0 to `num_rollouts`.
            trained: (row,) booleans or 0/1. Default: all true.
            clusters: column name -> (row,) labels, the same in every row of a prompt; a missing one is the level
                "(none)". Default: none.
            source: what errors call the whole, such as a file name.
            place: what errors call a row, given its number from 0. Default: "SOURCE row NUMBER".
            success: the rule by which successes were counted. Default None: not known.
            reward_mean, reward_std: (row,) mean of the group's folded rewards, and their standard deviation of divisor
                n - 1; missing where not known. Default: not known.
            pool_size: prompts that the run could choose from. Default None: not known.

        Raises:
            InputError: no rows; columns of different lengths; a value that is missing, out of range or of another
                type; two rows of a prompt in one step; a prompt with two labels in a cluster column; a pool smaller
                than the prompts that have rows.
        """
        columns = {
            "step": as_array(step),
            "prompt_id": as_array(prompt_id),
            "num_rollouts": as_array(num_rollouts),
            "num_successes": as_array(num_successes),
        }
        optional = {"trained": trained, "reward_mean": reward_mean, "reward_std": reward_std}
        columns |= {name: as_array(values) for name, values in optional.items() if values is not None}
        labels = {name: as_array(values) for name, values in (clusters or {}).items()}
        check_lengths(source, columns | labels)

        rows = Rows(place or (lambda row: f"{source} row {row}"), columns["prompt_id"], columns["step"])
        steps = rows.integers("step", columns["step"], least=0)
        n = rows.integers("num_rollouts", columns["num_rollouts"], least=1, most=MAX_ROLLOUTS)
        k = rows.integers("num_successes", columns["num_successes"], least=0)
        for row in np.flatnonzero(k > n)[:1]:
            what = f"num_successes={k[row]} exceeds num_rollouts={n[row]}"
            raise rows.error(row, what, "count the successes among the rollouts")
        exposed = rows.booleans("trained", columns["trained"]) if trained is not None else np.ones(len(n), bool)
        rewards: dict[str, Any] = {
            name: rows.numbers(name, columns[name], least=least)
            for name, least in (("reward_mean", -np.inf), ("reward_std", 0.0))
            if name in columns
        }

        order = rows.order = np.argsort(steps, kind="stable")
        prompt, prompt_ids = rows.labels("prompt_id", columns["prompt_id"])
        rows.check_unique(prompt, steps[order])
        made = cls(
            prompt_ids=prompt_ids,
            prompt=prompt,
            step=steps[order],
            num_rollouts=n[order],
            num_successes=k[order],
            trained=exposed[order],
            clusters={name: rows.labels_of_prompts(name, values, prompt) for name, values in labels.items()},
            success=success,
            **{name: values[order] for name, values in rewards.items() if not np.isnan(values).all()},
        )
        return made if pool_size is None else made.of_pool(pool_size, source)

    @classmethod
    def from_table(
        cls,
        table: Mapping[str, ArrayLike],
        source: str = "history",
        place: Callable[[int], str] | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> RewardHistory:
        """Build a history of named columns: a dict of arrays or a data frame.

        Args:
            table: holds `step`, `prompt_id`, `num_rollouts`, `num_successes`, optionally `trained`, `reward_mean` and
                `reward_std`; every other column is a cluster column. See `from_columns`.
            source: what errors call the whole.
            place: what errors call a row, given its number from 0.
            columns: name here -> name in the table, of columns that it calls otherwise, as in {"step": "global_step"}.

        Raises:
            InputError: a column is missing, or as `from_columns`.
        """
        names = renamed(source, list(table), columns)
        named: dict[str, Any] = {name: table[names[name]] for name in OWN if name in names}
        clusters = {name: table[names[name]] for name in names if name not in named}
        return cls.from_columns(**named, clusters=clusters, source=source, place=place)

    @classmethod
    def from_records(
        cls,
        records: Iterable[Mapping[str, Any]],
        source: str = "records",
        place: Callable[[int], str] | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> RewardHistory:
        """Build a history of one mapping per row, with the names of `from_table`.

        Raises:
            InputError: as `from_table`; a key that only some records have counts as missing in the others.
        """
        records = list(records)
        names = dict.fromkeys(chain.from_iterable(records))
        if not records:
            raise no_rows(source)
        table = {name: as_array([record.get(name) for record in records]) for name in names}
        return cls.from_table(table, source, place, columns)

    @classmethod
    def from_parquet(cls, path: str | Path, columns: Mapping[str, str] | None = None) -> RewardHistory:
        """Read a history file, or any Parquet file with the columns of `from_table`, or those that `columns` names.

        Raises:
            InputError: no such file, not a Parquet file, written by a newer version, or as `from_table`.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not Path(path).is_file():
            raise InputError(f"{path}: no such file: give a history's Parquet file")
        try:
            metadata = pq.read_metadata(path)
            _check_version(path, metadata.metadata or {})
            schema = metadata.schema.to_arrow_schema()
            # pandas keeps the row numbers of a filtered frame as a column of that name.
            names = [name for name in schema.names if not name.startswith("__index_level_")]
            renamed(str(path), names, columns)
            kinds = {name: schema.field(name).type for name in names}
            for name, kind in kinds.items():
                if pa.types.is_nested(kind):
                    raise InputError(f"{path}: column {name!r} of type {kind} holds no labels: drop it")
            # As a dictionary, each distinct text is decoded once.
            texts = [name for name in names if pa.types.is_string(kinds[name]) or pa.types.is_large_string(kinds[name])]
            with pq.ParquetFile(path, read_dictionary=texts) as file:
                table = file.read(columns=names)
            values = {name: _numpy(table[name]) for name in names}
        except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
            found = " ".join(str(error).split())
            raise InputError(f"{path}: not a Parquet file, or damaged ({found}): write it again") from None
        history = cls.from_table(values, source=str(path), columns=columns)
        noted = {key: value.decode(errors="replace") for key, value in (metadata.metadata or {}).items()}
        if POOL_SIZE_KEY in noted:
            history = history.of_pool(noted[POOL_SIZE_KEY], str(path))
        return replace(history, success=noted.get(SUCCESS_KEY))

    def to_parquet(self, path: str | Path) -> None:
        """Write a Parquet file with the columns of `from_table`, in place of one that is there.

        The file appears whole or not at all. Prompts without a row, which only a part of a history has (`select`),
        are not written.

        Raises:
            InputError: a cluster column has the name of another column.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        clash = [name for name in self.clusters if name in OWN]
        if clash:
            raise InputError(f"cluster column {clash[0]!r} has the name of a history's own column: rename it")
        columns = {
            "step": pa.array(self.step),
            "prompt_id": self._text(self.prompt_ids),
            "num_rollouts": pa.array(self.num_rollouts),
            "num_successes": pa.array(self.num_successes),
            "trained": pa.array(self.trained),
            **{name: pa.array(values, from_pandas=True) for name, values in self._rewards.items()},
            **{name: self._text(labels) for name, labels in self.clusters.items()},
        }
        table = pa.table(columns)
        # Without Arrow's own schema, whoever reads the file sees plain strings.
        options = {"compression": "zstd", "store_schema": False}
        with atomic(path) as part, pq.ParquetWriter(part, table.schema, **options) as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({VERSION_KEY: str(VERSION)})
            if self.success is not None:
                writer.add_key_value_metadata({SUCCESS_KEY: self.success})
            if self.pool_size is not None:
                writer.add_key_value_metadata({POOL_SIZE_KEY: str(self.pool_size)})

    def _text(self, labels: NDArray[np.object_]) -> pa.Array:
        """(row,) text column of (prompt,) labels, each text kept once however many rows it has."""
        import pyarrow as pa

        return pa.DictionaryArray.from_arrays(pa.array(self.prompt), pa.array(labels, pa.large_string()))

    @property
    def _rewards(self) -> dict[str, NDArray[np.float32]]:
        """(row,) what is known of the groups' rewards, by column."""
        return {name: values for name in REWARDS if (values := getattr(self, name)) is not None}

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.step)

    def __repr__(self) -> str:
        clusters = f", clusters {', '.join(self.clusters)}" if self.clusters else ""
        return f"RewardHistory({len(self)} rows, {self.num_prompts} prompts, {len(self.steps)} steps{clusters})"

    @property
    def num_prompts(self) -> int:
        """Number of prompts known here, with or without rows; the run's pool may be larger (`pool_size`)."""
        return len(self.prompt_ids)

    @property
    def steps(self) -> NDArray[np.int32]:
        """(step,) distinct steps that have a row, ascending."""
        return self.step[np.diff(self.step, prepend=-1) > 0]

    @property
    def informative(self) -> NDArray[np.bool_]:
        """(row,) whether some rollouts succeeded and some failed, 0 < k < n."""
        return (self.num_successes > 0) & (self.num_successes < self.num_rollouts)

    @property
    def survivors_only(self) -> bool:
        """Whether the groups of a log all vary, as if it had dropped those that dynamic sampling drops.

        Not so of fewer than 20 groups, nor of a history that knows the size of its pool: its run kept all that it saw.
        """
        return self.pool_size is None and len(self) >= FEW_GROUPS and bool(self.informative.all())

    def marks(self) -> NDArray[np.uint64]:
        """(step,) of each of `steps` a number by which the same counts of the same prompts in it are known again.

        The order of rows and prompts, labels, rewards, and whether a row was trained on do not matter.
        """
        ids = [hashlib.blake2b(str(name).encode(errors="surrogatepass"), digest_size=8) for name in self.prompt_ids]
        of_prompt = np.array([int.from_bytes(digest.digest(), "little") for digest in ids], np.uint64)
        counts = self.num_rollouts.astype(np.uint64) << np.uint64(32) | self.num_successes.astype(np.uint64)
        rows = _mixed(of_prompt[self.prompt] ^ _mixed(counts))
        first = np.flatnonzero(np.diff(self.step, prepend=-1))
        if not len(rows):
            return rows
        sums: NDArray[np.uint64] = np.add.reduceat(rows, first)
        return _mixed(sums ^ self.steps.astype(np.uint64))

    def select(self, mask: ArrayLike) -> RewardHistory:
        """The rows where a (row,) boolean mask is true, with the whole pool of prompts.

        Raises:
            InputError: the mask has another shape or type.
        """
        keep = np.asarray(mask)
        if keep.shape != self.step.shape or keep.dtype != bool:
            raise InputError(
                f"mask of shape {keep.shape} and type {keep.dtype} does not fit: give one boolean for each of "
                f"{len(self)} rows"
            )
        return replace(
            self,
            prompt=self.prompt[keep],
            step=self.step[keep],
            num_rollouts=self.num_rollouts[keep],
            num_successes=self.num_successes[keep],
            trained=self.trained[keep],
            **{name: values[keep] for name, values in self._rewards.items()},
        )

    def of_pool(self, pool_size: int | str, source: str = "history") -> RewardHistory:
        """The history as that of a run that could choose from so many prompts.

        Raises:
            InputError: it is no whole number, or smaller than the number of prompts here.
        """
        size = int(pool_size) if str(pool_size).isdecimal() else -1
        if size < self.num_prompts:
            raise InputError(
                f"{source}: pool_size={pool_size}, and {self.num_prompts} prompts are in the history: give how many "
                "the run could choose from"
            )
        return replace(self, pool_size=size)

    def before(self, step: int) -> RewardHistory:
        """The rows of steps below `step`, with the whole pool of prompts."""
        return self.select(self.step < step)

    def observed_rows(self, observed: str = "trained") -> NDArray[np.bool_]:
        """(row,) what a forecaster may see: the "trained" rows (as live training would have), or "all".

        Raises:
            InputError: `observed` is neither.
        """
        if observed not in ("trained", "all"):
            raise InputError(f"observed={observed!r} is none of: trained, all")
        return self.trained if observed == "trained" else np.ones(len(self), bool)

    def observed(self, observed: str = "trained") -> RewardHistory:
        """The rows of `observed_rows`, with the whole pool of prompts; raises as it does."""
        return self.select(self.observed_rows(observed))

    def labels(self, cluster: str | Sequence[str]) -> NDArray[np.object_]:
        """(prompt,) labels of a cluster column, or of several, crossed as by `cross`.

        Raises:
            InputError: no such column.
        """
        names = [cluster] if isinstance(cluster, str) else list(cluster)
        for name in names:
            if name not in self.clusters:
                there = f"give one of: {', '.join(self.clusters)}" if self.clusters else "the history has none"
                raise InputError(f"cluster column {name!r} is not in the history: {there}")
        return cross([self.clusters[name] for name in names])

    def dense(self, cluster: str | Sequence[str] | None = None) -> DenseHistory:
        """The history as arrays over (step, prompt), with prompts coded by cluster.

        Args:
            cluster: column name, or several to cross. Default: all prompts in one cluster.

        Raises:
            InputError: no such cluster column, or groups too large to tabulate.
        """
        steps = self.steps
        at = (np.searchsorted(steps, self.step), self.prompt)
        shape = (len(steps), self.num_prompts)

        sizes, size = np.unique(self.num_rollouts, return_inverse=True)
        # First symbol of each group size.
        first = 1 + np.cumsum(np.append(0, sizes.astype(np.int64) + 1))
        if first[-1] > MAX_SYMBOLS:
            row = int(self.num_rollouts.argmax())
            raise InputError(
                f"step {self.step[row]}, prompt {self.prompt_ids[self.prompt[row]]!r}: num_rollouts={sizes[-1]} is too "
                f"large: the distinct group sizes of a history may add up to {MAX_SYMBOLS:,}"
            )
        symbols = np.zeros(shape, np.min_scalar_type(int(first[-1]) - 1))
        symbols[at] = first[size] + self.num_successes
        exposure = np.zeros(shape, np.uint8)
        exposure[at] = np.where(self.trained, np.where(self.informative, 1, 2), 0)
        n = np.repeat(sizes, sizes + 1)
        k = np.arange(len(n)) - np.repeat(first[:-1] - 1, sizes + 1)

        if cluster is None:
            names, codes = ["all"], np.zeros(self.num_prompts, np.int32)
        else:
            labels = self.labels(cluster)
            names = sorted(set(labels))
            code = {name: index for index, name in enumerate(names)}
            codes = np.fromiter((code[label] for label in labels), np.int32, self.num_prompts)
        return DenseHistory(
            symbols=symbols,
            exposure=exposure,
            counts=np.stack([np.append(0, n), np.append(0, k)], axis=1).astype(np.int32),
            cluster=codes,
            cluster_names=tuple(names),
            prompt_ids=self.prompt_ids,
            steps=steps,
        )

    def summary(self) -> dict[str, Any]:
        """JSON-able facts. Shares are of rows, from 0 to 1; what no row can tell is None.

        `coverage` is the share of (prompt, step) cells that have a row, `clusters` the number of labels by column.
        """
        rows, cells = len(self), self.num_prompts * len(self.steps)
        rollouts, successes = (
            int(self.num_rollouts.sum(dtype=np.int64)),
            int(self.num_successes.sum(dtype=np.int64)),
        )
        trained = int(np.count_nonzero(self.trained))
        return {
            "rows": rows,
            "prompts": self.num_prompts,
            "steps": len(self.steps),
            "first_step": int(self.step[0]) if rows else None,
            "last_step": int(self.step[-1]) if rows else None,
            "rollouts": rollouts,
            "rollouts_per_row": [int(self.num_rollouts.min()), int(self.num_rollouts.max())] if rows else None,
            "success_rate": _share(successes, rollouts),
            "reward_mean": self._mean_reward(),
            "unsolved": _share((self.num_successes == 0).sum(), rows),
            "partial": _share(self.informative.sum(), rows),
            "solved": _share((self.num_successes == self.num_rollouts).sum(), rows),
            "trained_rows": trained,
            "trained": _share(trained, rows),
            "coverage": _share(rows, cells),
            "clusters": {name: len(set(labels)) for name, labels in self.clusters.items()},
            "success": self.success,
            "pool_size": self.pool_size,
        }

    def _mean_reward(self) -> float | None:
        """Mean of all rewards, as far as rows have one: groups weigh by their rollouts."""
        if self.reward_mean is None:
            return None
        known = ~np.isnan(self.reward_mean)
        weights = self.num_rollouts[known]
        return float(np.average(self.reward_mean[known], weights=weights)) if known.any() else None


def cross(columns: Sequence[Sequence[Any] | NDArray]) -> NDArray[np.object_]:
    r"""(prompt,) labels of one column as strings, or of several joined by "|", where "\|" is one inside a label."""
    texts = [[str(label) for label in column] for column in columns]
    if len(texts) > 1:
        texts = [[label.replace("\\", r"\\").replace("|", r"\|") for label in column] for column in texts]
    return np.fromiter(map("|".join, zip(*texts, strict=True)), object, len(texts[0]))


def uncross(label: str) -> list[str]:
    """(column,) what `cross` joined, of one prompt."""
    parts = [""]
    for token in re.findall(r"\\.|[^\\]", label, re.DOTALL):
        if token == "|":
            parts.append("")
        else:
            parts[-1] += token[-1]
    return parts


def _numpy(column: pa.ChunkedArray) -> NDArray:
    import pyarrow as pa

    # pyarrow takes a dictionary column's nulls for its last word.
    if pa.types.is_dictionary(column.type) and column.null_count:
        return as_array(column.to_pylist())
    return column.to_numpy()


def _check_version(path: str | Path, metadata: Mapping[bytes, bytes]) -> None:
    try:
        version = int(metadata.get(VERSION_KEY, b"0"))
    except ValueError:
        raise InputError(f"{path}: of format {metadata[VERSION_KEY]!r}, which is no number: write it again") from None
    if version > VERSION:
        raise InputError(
            f"{path}: history format {version} is newer than the {VERSION} that this promptdyn reads: upgrade promptdyn"
        )


def _mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each word spread over all bits, so that sums of them tell apart what was added (SplitMix64)."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _share(part: Any, whole: int) -> float | None:
    return float(part / whole) if whole else None
