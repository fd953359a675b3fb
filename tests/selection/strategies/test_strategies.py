"""Strategies: what each sees of a run, and what a stranger's own needs."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from known import known
from promptdyn.errors import InputError
from promptdyn.models import DPS
from promptdyn.selection import GRESO, STRATEGIES, Proportional, Selector, Strategy
from promptdyn.selection.chooser import Chooser

IDS = [f"p{i}" for i in range(8)]
SUCCESSES, FAILURES, BOTH = [1.0] * 4, [0.0] * 4, [1.0, 0.0, 0.0, 1.0]


class Surprises(NamedTuple):
    surprise: NDArray[np.float64]  # (prompt,) how far the last group was from the mean of all
    mean: NDArray[np.float64]  # (2,) successes and rollouts so far


@dataclass(frozen=True)
class Surprising(Strategy):
    """A stranger's: prompts whose last group was far from the mean of all groups so far."""

    weight: float = 1.0

    name = "surprising"
    shared: ClassVar[tuple[str, ...]] = ("mean",)

    def init(self, num_prompts):
        return Surprises(np.zeros(num_prompts), np.array([1.0, 2.0]))

    def step(self, state, rows, num_successes, num_rollouts, trained):
        mean = state.mean + np.array([num_successes.sum(), num_rollouts.sum()])
        surprise = 0.9 * state.surprise
        surprise[rows] = np.abs(num_successes / num_rollouts - mean[0] / mean[1])
        return Surprises(surprise, mean)

    def priorities(self, state, outlook, rng):
        return outlook.scores() + self.weight * state.surprise - 0.1 * outlook.times_seen


STATEFUL = ["greso", "history_resampling", "surprising"]


@pytest.fixture(autouse=True)
def _registered(registries):
    STRATEGIES.register(Surprising)


def play(selector: Selector, steps: range, seed: int = 0) -> list[list[str]]:
    """Of each step what is chosen, where a third of the prompts are solved and a third are not."""
    chosen = []
    for step in steps:
        chosen.append(selector.select(3))
        draws = np.random.default_rng([seed, step]).random((3, 4)) < 0.5
        kind = np.array([int(i[1:]) % 3 for i in chosen[-1]])[:, None]
        selector.observe(chosen[-1], np.where(kind == 0, 1.0, np.where(kind == 1, 0.0, draws)))
    return chosen


def arrays(selector: Selector) -> dict[str, NDArray]:
    return selector.state_dict()["strategy"]["arrays"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"keep_easy": 0.99}, r"GRESO: keep_easy=0.99 is outside \[0.05, 0.95\]"),
        ({"change": -0.1}, r"GRESO: change=-0.1 is outside \[0, 1\]"),
    ],
)
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        GRESO(**settings)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_state_of_a_longer_pool_begins_alike(name):
    strategy = STRATEGIES.create(name)
    short, long = strategy.init(3), strategy.init(5)
    assert type(short) is type(long)
    for field, few, more in zip(short._fields, short, long, strict=True):
        assert few.dtype == more.dtype
        if field in strategy.shared:
            np.testing.assert_array_equal(few, more)
        else:
            assert (few.shape[-1], more.shape[-1]) == (3, 5)
            np.testing.assert_array_equal(few, more[..., :3])


@pytest.mark.parametrize("name", STATEFUL)
def test_a_strategy_goes_on_from_its_file_and_prompts_join(name, tmp_path):
    whole = Selector(DPS().online(IDS), strategy=name, success=1.0, seed=1)
    play(whole, range(10))
    whole.add(["p8", "p9"])
    whole.save(tmp_path / "selector.npz")
    expected, at_the_end = play(whole, range(10, 30)), arrays(whole)
    again = Selector(DPS().online([*reversed(IDS), "p8", "p9"]), strategy=name, success=1.0, seed=5)
    again.load(tmp_path / "selector.npz")
    assert play(again, range(10, 30)) == expected
    for field, array in arrays(again).items():
        np.testing.assert_array_equal(array, at_the_end[field])
    # Of what joins when a state is loaded nothing was seen.
    later = Selector(DPS().online([*IDS, "p8", "p9", "p10"]), strategy=name, success=1.0)
    later.load(tmp_path / "selector.npz")
    fresh = STRATEGIES.create(name).init(1)
    for field, array in arrays(later).items():
        if field not in STRATEGIES.create(name).shared:
            np.testing.assert_array_equal(array[..., -1:], getattr(fresh, field))


def observe(selector: Selector, steps: list[tuple[list[str], list]]) -> list[str | None]:
    """The rule of success after each step."""
    rules = []
    for prompts, rewards in steps:
        selector.observe(prompts, rewards)
        rules.append(selector.success)
    selector.settle()
    return [*rules, selector.success]


@pytest.mark.parametrize("name", STATEFUL)
@pytest.mark.parametrize("warm", [False, True])
def test_a_strategy_sees_all_steps_by_the_rule_that_is_found(name, warm):
    """Also where the filter knew something before, of which the strategy saw nothing."""
    online = DPS().online(IDS)
    if warm:
        online.step(IDS, 2, 4)
    found = Selector(online, strategy=name, seed=1)
    kinds = [[0.0, 0.5]] * 3 + [[0.0, 0.5, 1.5]] * 9
    steps = [
        (IDS[step % 6 : step % 6 + 3], np.random.default_rng(step).choice(kinds[step], (3, 4)).tolist())
        for step in range(12)
    ]
    rules = observe(found, [*steps[:1], ([], []), *steps[1:]])
    assert len(set(rules)) > 1
    told = Selector(DPS().online(IDS), strategy=name, success=known(rules[-1]), seed=1)
    observe(told, steps)
    for field, array in arrays(found).items():
        np.testing.assert_array_equal(array, arrays(told)[field])


@pytest.mark.parametrize("name", STATEFUL)
def test_a_strategys_state_that_is_not_whole_is_told_and_changes_nothing(name):
    selector = Selector(DPS().online(IDS), strategy=name, success=1.0)
    play(selector, range(4))
    state, before = selector.state_dict(), selector.state_dict()
    field = next(iter(state["strategy"]["arrays"]))
    for broken in ({}, {**state["strategy"]["arrays"], field: np.zeros((2, 2))}):
        with pytest.raises(InputError, match=f"the state's '{field}' is not the"):
            selector.load_state_dict({**state, "strategy": {"arrays": broken}})
    np.testing.assert_array_equal(arrays(selector)[field], before["strategy"]["arrays"][field])
    assert selector.online.steps == before["online"]["steps"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            Proportional,
            r"strategy Proportional is a class: give an object, Proportional\(\), or a name \(proportional, top",
        ),
        (3, r"strategy 3 is no strategy: let it inherit from promptdyn\.selection\.Strategy, or give a name \(prop"),
        ("tops", "strategy 'tops' is none of proportional, top"),
        ("top,uniform", "strategy 'top,uniform': name one strategy, not 2"),
        ("", "strategy '': name at least one of proportional"),
    ],
)
def test_what_is_no_strategy_is_told(given, message):
    with pytest.raises(InputError, match=message):
        Selector(DPS().online(IDS), strategy=given)


def test_what_a_strategy_lacks_is_named():
    @dataclass(frozen=True)
    class Idle(Strategy):
        name = "idle"

    @dataclass(frozen=True)
    class Stranger:
        name = "stranger"

        def priorities(self, state, outlook, rng): ...

    with pytest.raises(InputError, match=r"Idle is no strategy yet: of the methods of Strategy it lacks priorities$"):
        STRATEGIES.register(Idle)
    with pytest.raises(InputError, match=r"Stranger is no strategy: let it inherit from promptdyn.selection.Strategy"):
        STRATEGIES.register(Stranger)


@pytest.mark.parametrize(
    ("priorities", "message"),
    [
        (np.zeros(3), r"strategy 'says' gave priorities of shape \(3,\) for 8 prompts"),
        (np.array([0.0, np.nan] * 4), "strategy 'says' gave prompt 'p1' the priority NaN"),
    ],
)
def test_priorities_that_are_none_are_told(priorities, message):
    @dataclass(frozen=True)
    class Says(Strategy):
        name = "says"

        def priorities(self, state, outlook, rng):
            return priorities

    with pytest.raises(InputError, match=message):
        Selector(DPS().online(IDS), strategy=Says(), success=1.0).select(2)


def test_a_state_with_a_field_of_another_length_is_told():
    @dataclass(frozen=True)
    class Short(Surprising):
        shared: ClassVar[tuple[str, ...]] = ()

    with pytest.raises(InputError, match=r"strategy 'surprising': field 'mean' of its state has shape \(2,\) for 8 pr"):
        Chooser(Short(), 8)


@pytest.mark.parametrize(
    ("after", "message"),
    [
        (None, "its step made a NoneType of a Surprises: let it return the state"),
        (Surprises(np.zeros(8, np.float32), np.zeros(2)), r"'surprise' from float64 \(8,\) to float32 \(8,\)"),
        (
            Surprises(np.zeros(2), np.zeros(2)),
            r"'surprise' from float64 \(8,\) to float64 \(2,\): let it stay as `init`",
        ),
    ],
)
def test_a_step_that_makes_another_kind_of_state_is_told_at_once(after, message):
    """Not when a run is to go on from its file."""

    @dataclass(frozen=True)
    class Careless(Surprising):
        def step(self, state, rows, num_successes, num_rollouts, trained):
            return after

    selector = Selector(DPS().online(IDS), strategy=Careless(), success=1.0)
    with pytest.raises(InputError, match="strategy 'surprising': .*" + message):
        selector.observe(IDS[:2], [BOTH, BOTH])
    assert selector.online.steps == 0


def test_a_state_may_hold_numbers_that_are_not_finite(tmp_path):
    @dataclass(frozen=True)
    class Never(Surprising):
        def init(self, num_prompts):
            return Surprises(np.full(num_prompts, -np.inf), np.array([np.nan, 0.0]))

        def priorities(self, state, outlook, rng):
            return state.surprise

    selector = Selector(DPS().online(IDS), strategy=Never(), success=1.0)
    selector.save(tmp_path / "selector.npz")
    selector.load(tmp_path / "selector.npz")
    assert arrays(selector)["surprise"].tolist() == [-np.inf] * 8
