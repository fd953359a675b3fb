"""A continuous success rate on a grid, which drifts, diffuses, and seldom jumps.

The state of a prompt is the logit x of its success rate, on a grid of `num_states` points from -7 to 7, and one of
`num_speeds` speeds l. A group of n rollouts has k | x ~ Binomial(n, sigmoid x) successes. In a step, x moves as a
birth-death process with log rate r and log odds d of up against down:

    idle                    r = a0 + a1 |x|/3 + a2 x/3 + log speed_l     d = b0 + b_c + b1 x/3 + b2 tanh x
    trained, 0 < k < n      r = c0 + c1 log speed_l                      d = e0 + b_c + e1 x/3
    trained, k = 0 or n     r = f0 + f1 log speed_l                      d = g0 + g1 x/3

A prompt that is trained on makes the move of the training step first, then the idle move; c is the prompt's cluster.
Groups without variance give no gradient, so their prompts move differently. With chance eps the idle step jumps to the
pool's initial distribution; l seldom switches. Transition matrices are matrix exponentials of the generator, computed
by squaring.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from promptdyn.models import emissions
from promptdyn.models.base import PPL, Array, Chain, Dynamics, Pool
from promptdyn.models.checks import check_whole

__all__ = ["BetaState"]

# Logits of the outermost success rates: 0.0009 and 0.9991.
REACH = 7.0
# Largest rate up or down, in moves per step on the default grid, which keeps the matrix exponential stable.
MAX_RATE = 3.0
# The slowest and the fastest speed, as factors of the idle rate.
SPEEDS = (0.1, 8.0)
# Share of the initial belief that is uniform over the grid, so that no count has too small a probability.
EVEN = 0.01


@dataclass(frozen=True)
class BetaState(Dynamics):
    """Continuous success rate on a grid, with drift, diffusion and jumps by exposure and cluster.

    All sites are real numbers with normal priors. Sites in the plate `cluster`: `level` and `log_spread_by_cluster`
    of the initial logits, `drift_by_cluster`, and `fast_by_cluster` (log odds of fast prompts). Sites for all
    clusters: `log_spread`, `fast`, `jump` (logit of eps), `switch` (logit per speed), `idle_rate`, `idle_rate_far`,
    `idle_rate_tilt` (a0 to a2), `idle_drift`, `idle_drift_tilt`, `idle_drift_side` (b0 to b2), `partly_rate`,
    `partly_rate_speed`, `partly_drift`, `partly_drift_tilt` (c, e), `settled_rate`, `settled_rate_speed`,
    `settled_drift`, `settled_drift_tilt` (f, g). With one speed, the sites of speeds are left out.

    The chain has `num_speeds * num_states` states, ordered by speed. `fit` finds the mode by gradient ("map") by
    default.

    Attributes:
        num_states: number of grid points, at least 3; default 25.
        num_speeds: number of speeds, at equal ratios; default 2. With 1, all prompts have the same speed.
        cluster: column(s) of the history whose labels have initial distributions and drifts of their own. Default
            "auto": all label columns of the history, crossed; None: one set for the whole pool.

    Raises:
        InputError: a setting is out of range.
    """

    num_states: int = 25
    num_speeds: int = 2
    cluster: str | tuple[str, ...] | None = "auto"

    name = "beta"
    fitted_by = "map"

    def __post_init__(self) -> None:
        check_whole(self, "num_states", 3)
        check_whole(self, "num_speeds", 1)

    def program(self, ppl: PPL, pool: Pool) -> Chain:
        """See `Dynamics.program`."""
        dist, xp = ppl.dist, ppl.xp
        grid = np.linspace(-REACH, REACH, self.num_states)
        x, far, tilt = (xp.asarray(part) for part in (grid, np.abs(grid) / 3.0, grid / 3.0))
        several = self.num_speeds > 1
        speeds = np.geomspace(*SPEEDS, self.num_speeds) if several else np.ones(1)
        log_speed = xp.asarray(np.log(speeds)[:, None, None])  # (speed cluster x), as all below

        def real(name: str, mean: float, scale: float) -> Array:
            return ppl.sample(name, dist.Normal(mean, scale))

        with ppl.plate("cluster", pool.num_clusters):
            level = real("level", 0.0, 5.0)
            log_spread = real("log_spread_by_cluster", 0.0, 0.4)
            drift = real("drift_by_cluster", 0.0, 0.5)[:, None]
            fast = real("fast_by_cluster", 0.0, 1.0) if several else None
        log_spread = log_spread + real("log_spread", 0.3, 0.5)
        begin = (1.0 - EVEN) * _normal(xp, x, level[:, None], xp.exp(log_spread)[:, None]) + EVEN / len(grid)

        idle = _moves(
            xp,
            real("idle_rate", -3.0, 2.0)
            + real("idle_rate_far", 0.0, 1.0) * far
            + real("idle_rate_tilt", 0.0, 1.0) * tilt
            + log_speed,
            real("idle_drift", 0.0, 1.0)
            + drift
            + real("idle_drift_tilt", 0.0, 1.0) * tilt
            + real("idle_drift_side", 0.0, 1.0) * xp.tanh(x),
        )
        jump = _sigmoid(xp, real("jump", -6.0, 1.5))
        idle = (1.0 - jump) * idle + jump * xp.mean(begin, axis=0)

        def trained(when: str, rate: tuple[float, float], drift: Array) -> Array:
            """Return the transition of a training step, which is its own move followed by the idle move."""
            log_rate = real(f"{when}_rate", *rate)
            if several:
                log_rate = log_rate + real(f"{when}_rate_speed", 0.0, 1.0) * log_speed
            odds = real(f"{when}_drift", 0.0, 1.0) + drift + real(f"{when}_drift_tilt", 0.0, 1.0) * tilt
            return _moves(xp, log_rate, odds) @ idle

        steps = [idle, trained("partly", (-2.0, 2.0), drift), trained("settled", (-2.5, 1.5), 0.0)]
        rates = _sigmoid(xp, x)
        if several:
            log_speed_share = xp.asarray(np.linspace(0.0, 1.0, self.num_speeds))
            chances = xp.exp((real("fast", 0.0, 1.0) + fast)[:, None] * log_speed_share)
            chances = chances / xp.sum(chances, axis=-1)[:, None]
            begin = xp.reshape(chances[:, :, None] * begin[:, None], (pool.num_clusters, -1))
            with ppl.plate("speed", self.num_speeds):
                leave = _sigmoid(xp, real("switch", -4.0, 1.5))[:, None]
            others = xp.asarray((1.0 - np.eye(self.num_speeds)) / (self.num_speeds - 1))
            switch = (1.0 - leave) * xp.asarray(np.eye(self.num_speeds)) + leave * others
            steps = [_with_speeds(xp, switch, step) for step in steps]
            rates = xp.concat([rates] * self.num_speeds)
        else:
            steps = [step[0] for step in steps]
        return Chain(begin, xp.stack(steps), emissions.Binomial(ppl.deterministic("success_rates", rates, ("state",))))


def _sigmoid(xp: ModuleType, x: Array) -> Array:
    return 1.0 / (1.0 + xp.exp(-x))


def _normal(xp: ModuleType, x: Array, mean: Array, scale: Array) -> Array:
    """Return (cluster x) probabilities on the grid, proportional to a normal density."""
    # Relative to the density's largest value, which is written without a maximum: compiled programs may get the slope
    # of a maximum wrong, if they compare a value with itself computed in another way.
    excess = mean - xp.clip(mean, -REACH, REACH)
    density = xp.exp(0.5 * (excess**2 - (x - mean) ** 2) / scale**2) + np.finfo(float).tiny
    return density / xp.sum(density, axis=-1)[:, None]


def _moves(xp: ModuleType, log_rate: Array, log_odds: Array) -> Array:
    """Return (speed cluster x x) transition probabilities from (speed cluster x) log rates and log odds of up.

    Rates and odds are those of the default grid; on another grid they are adjusted so that x drifts and diffuses
    equally. A rate r is limited to r / (1 + r / MAX_RATE).
    """
    num_states = log_odds.shape[-1]
    finer = (num_states - 1) / (BetaState.num_states - 1)
    up, down = (
        finer**2 * (MAX_RATE * _sigmoid(xp, log_rate + sign * log_odds / finer - np.log(MAX_RATE)))[..., None]
        for sign in (0.5, -0.5)
    )
    above, below = np.eye(num_states, k=1), np.eye(num_states, k=-1)
    generator = up * xp.asarray(above - np.diag(above.sum(axis=1)))
    generator = generator + down * xp.asarray(below - np.diag(below.sum(axis=1)))
    # exp(Q) is near (I + Q / 2^j)^(2^j), whose rows are probabilities if rates are below 2^j.
    doublings = 6 + max(int(np.ceil(2.0 * np.log2(finer))), 0)
    transition = xp.asarray(np.eye(num_states)) + generator / 2**doublings
    for _ in range(doublings):
        transition = transition @ transition
    return transition


def _with_speeds(xp: ModuleType, switch: Array, step: Array) -> Array:
    """Combine (speed speed) switches and (speed cluster x x) moves into (cluster (speed x) (speed x)) transitions."""
    num_speeds, num_clusters, num_states, _ = step.shape
    combined = switch[:, :, None, None, None] * step[:, None]  # (speed speed cluster x x)
    size = num_speeds * num_states
    return xp.reshape(xp.permute_dims(combined, (2, 0, 3, 1, 4)), (num_clusters, size, size))
