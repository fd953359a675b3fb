"""What followed the same outcome before, by its formula and on chains of known transitions."""

import numpy as np
import pytest

from promptdyn.errors import InputError
from promptdyn.models import LastOutcome
from promptdyn.prompts import Prompts

POOL = Prompts(["a", "b", "c", "d"], {"kind": ["x", "x", "y", "y"]})


def test_forecasts_by_hand():
    online = LastOutcome(cluster="kind", decay=0.5, prior=2.0).online(POOL)
    online.step(["a", "c"], [0, 2], 2)
    online.step(["a", "b"], [1, 2], 2)
    # In kind x: after "never" none (1/2, decayed) and all; after "none" some. In kind y: after "never" all (1/2).
    never = np.array([0.5 + 0.25, 0.5, 1.5 + 0.25]) / 3.0
    expected = {
        "a": np.array([0.25, 0.5, 0.25]),  # after "some" nothing was seen
        "b": np.array([0.25, 0.5, 0.25]),  # nor after "all"
        "c": np.array([0.25, 0.5, 0.25]),
        "d": (np.array([0.0, 0.0, 0.5]) + 2.0 * never) / 2.5,
    }
    np.testing.assert_allclose(online.outcome(8), np.stack([expected[i] for i in "abcd"]))
    online.step(["a"], [0], 2)
    after_none = np.array([0.25, 0.5 + 0.5, 0.25])  # the group of "a" that followed "none", decayed once more
    forecast = (np.array([0.0, 0.5, 0.0]) + 2.0 * after_none / after_none.sum()) / 2.5
    np.testing.assert_allclose(online.outcome(8)[0], forecast)
    assert online.informative(3)[0] == pytest.approx(forecast[1])


def test_transitions_of_a_known_chain_are_found():
    rng = np.random.default_rng(0)
    chances = np.array([[0.7, 0.3, 0.0], [0.1, 0.6, 0.3], [0.0, 0.2, 0.8]])
    ids = [f"p{i}" for i in range(300)]
    online = LastOutcome(decay=1.0).online(ids)
    state = rng.integers(0, 3, 300)
    for _ in range(60):
        online.step(ids, state, 2)
        state = np.array([rng.choice(3, p=chances[now]) for now in state])
    last = online._state.last
    np.testing.assert_allclose(online.outcome(2), chances[last], atol=0.02)


@pytest.mark.parametrize(("settings", "message"), [({"decay": 0.0}, "decay"), ({"prior": 0.0}, "prior=0.0 must be")])
def test_settings_out_of_range_are_named(settings, message):
    with pytest.raises(InputError, match=f"LastOutcome: {message}"):
        LastOutcome(**settings)
