"""DPS against its authors' published sampler and against the paper's recursion written out per prompt."""

import json
from pathlib import Path

import numpy as np
import pytest

from promptdyn.errors import InputError
from promptdyn.models import DPS
from promptdyn.models.dps import BLOCK

TRACE = json.loads((Path(__file__).parents[1] / "data" / "dps_reference_trace.json").read_text())


@pytest.mark.parametrize("case", TRACE["cases"], ids=lambda case: f"decay={case['decay']}")
def test_beliefs_equal_the_authors_sampler(case):
    ids = [str(i) for i in range(case["num_prompts"])]
    model = DPS(case["decay"], case["prior_alpha"], case["prior_initial"])
    online = model.online(ids)
    for step in case["steps"]:
        online.step([ids[i] for i in step["prompts"]], step["num_successes"], case["num_rollouts"])
        np.testing.assert_allclose(online.belief, step["belief"], atol=1e-9)


def paper_recursion(decay, prior, initial, steps, num_prompts):
    """METHODS of arXiv 2603.10887, one prompt at a time, Phi column j = next state given current state j."""
    beliefs = []
    alpha = [prior.T.copy() for _ in range(num_prompts)]
    mu_prior = [initial.copy() for _ in range(num_prompts)]
    mu_post = [initial.copy() for _ in range(num_prompts)]
    for observed in steps:
        for i in range(num_prompts):
            phi = alpha[i] / alpha[i].sum(axis=0)
            before = mu_post[i]
            mu_post[i] = np.eye(3)[observed[i]] if i in observed else mu_prior[i]
            xi = mu_post[i][:, None] * before[None, :] * phi
            alpha[i] = decay * alpha[i] + (1 - decay) * prior.T
            if i in observed and xi.sum() > 0:
                alpha[i] = alpha[i] + xi / xi.sum()
            mu_prior[i] = alpha[i] / alpha[i].sum(axis=0) @ mu_post[i]
        beliefs.append(np.array(mu_prior))
    return beliefs


@pytest.mark.parametrize("prior", [1.0, 0.3, "progress", "stability", "local"])
@pytest.mark.parametrize("decay", [1.0, 0.7, 0.05])
def test_stored_counts_with_lazy_forgetting_equal_the_paper(prior, decay):
    rng = np.random.default_rng(0)
    num_prompts, num_steps = 9, 60
    initial = np.array([0.5, 0.3, 0.2])
    model = DPS(decay, prior, initial)
    steps = [
        {int(i): int(rng.integers(3)) for i in rng.choice(num_prompts, 3, replace=False)} for _ in range(num_steps)
    ]
    expected = paper_recursion(decay, model._prior, initial, steps, num_prompts)
    online = model.online([str(i) for i in range(num_prompts)])
    for observed, belief in zip(steps, expected, strict=True):
        online.step([str(i) for i in observed], [4 * o for o in observed.values()], 8)
        np.testing.assert_allclose(online.belief, belief, atol=1e-12)


def test_blocks_of_the_dense_pass_do_not_change_the_result():
    rng = np.random.default_rng(1)
    num_prompts = 2 * BLOCK + 17
    ids = [str(i) for i in range(num_prompts)]
    large = DPS().online(ids)
    few = [0, BLOCK - 1, BLOCK, 2 * BLOCK, num_prompts - 1]
    small = DPS().online([ids[i] for i in few])
    for _ in range(5):
        successes = rng.integers(0, 9, num_prompts)
        large.step(ids, successes, 8)
        small.step([ids[i] for i in few], successes[few], 8)
    np.testing.assert_array_equal(large.belief[few], small.belief)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"decay": 0.0}, r"decay=0\.0 is outside \(0, 1\]"),
        ({"decay": 1.5}, r"decay=1\.5"),
        ({"prior_transition": "sticky"}, "'sticky' is none of uniform, progress, stability, local"),
        ({"prior_transition": [[1, 1], [1, 1]]}, "3 x 3"),
        ({"prior_transition": -1.0}, "counts >= 0"),
        ({"prior_initial": [0.5, 0.5, 0.5]}, "add up to 1"),
        ({"prior_initial": "first"}, "'first'"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        DPS(**settings)
