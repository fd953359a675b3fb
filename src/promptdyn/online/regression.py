"""Bayesian logistic regressions that learn online: the weights drift about a prior, and their posterior is a Gaussian.

    logit P(event) = w . x,    w_{t+1} = m + sqrt(kept) (w_t - m) + Normal(0, (1 - kept) S),    w_0 ~ Normal(m, S)

A drift changes the posterior exactly; observed events are absorbed by Laplace's approximation (Rasmussen & Williams
2006, algorithm 3.1), which costs the square of the number of weights for each event.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.special import expit

__all__ = ["absorb", "draw_weights", "drift", "probit"]

Floats = NDArray[np.float64]
# Events absorbed at a time; the most iterations of Newton's method, which needs only a few; and how often a step that
# goes too far is halved.
EVENTS, ITERATIONS, HALVINGS = 64, 50, 20
TOLERANCE = 1e-8


def drift(mean: Floats, covariance: Floats, prior_mean: Floats | float, prior_variance: Floats, kept: float) -> None:
    """Let the weights drift for one step, in place.

    Args:
        mean: (... weight) posterior mean.
        covariance: (... weight weight) posterior covariance.
        prior_mean: (weight,) or one number.
        prior_variance: (weight,) prior variances; the prior's covariance is diagonal.
        kept: correlation of the weights' deviations from one step to the next, squared; in (0, 1].
    """
    mean -= prior_mean
    mean *= np.sqrt(kept)
    mean += prior_mean
    covariance *= kept
    diagonal = np.arange(covariance.shape[-1])
    covariance[..., diagonal, diagonal] += (1.0 - kept) * prior_variance


def absorb(mean: Floats, covariance: Floats, inputs: Floats, events: Floats) -> None:
    """Update the weights' posterior by events, in place.

    Args:
        mean: (weight,) posterior mean.
        covariance: (weight weight) posterior covariance.
        inputs: (weight event) inputs x.
        events: (event,) 1 where the event happened, else 0.
    """
    for start in range(0, len(events), EVENTS):
        part = slice(start, start + EVENTS)
        _absorb(mean, covariance, inputs[:, part], events[part])


def _absorb(mean: Floats, covariance: Floats, inputs: Floats, events: Floats) -> None:
    """Absorb a few events. It is computed in the space of their logits, whose covariance is K = inputs' cov inputs."""
    cross = covariance @ inputs
    prior, kernel = inputs.T @ mean, inputs.T @ cross
    logit, dual = prior, np.zeros_like(events)
    height = -np.inf
    for _ in range(ITERATIONS):
        chance = expit(logit)
        root = np.sqrt(np.maximum(chance * (1.0 - chance), 1e-12))
        factor = cho_factor(np.eye(len(events)) + root[:, None] * kernel * root)
        target = root**2 * (logit - prior) + events - chance
        move = target - root * cho_solve(factor, root * (kernel @ target)) - dual
        before, height_before = logit, height
        for _ in range(HALVINGS):
            logit = prior + kernel @ (dual + move)
            # The log posterior of the weights that the dual stands for, up to a constant.
            height = events @ logit - np.logaddexp(0.0, logit).sum() - 0.5 * (logit - prior) @ (dual + move)
            if height >= height_before:
                break
            move *= 0.5
        dual = dual + move
        if np.abs(logit - before).max() < TOLERANCE:
            break
    mean += cross @ dual
    chance = expit(logit)
    root = np.sqrt(np.maximum(chance * (1.0 - chance), 1e-12))
    factor = cho_factor(np.eye(len(events)) + root[:, None] * kernel * root)
    weighted = cross * root
    covariance -= weighted @ cho_solve(factor, weighted.T)


def draw_weights(mean: Floats, covariance: Floats, rng: np.random.Generator) -> Floats:
    """Return a draw of the (... weight) weights from their posterior."""
    roots = np.linalg.cholesky(covariance)
    return mean + np.einsum("...ij,...j->...i", roots, rng.standard_normal(mean.shape))


def probit(logit: NDArray, variance: NDArray) -> NDArray:
    """Return the mean chance under a Gaussian of the logit, nearly (MacKay 1992): expit(logit / sqrt(1 + pi v / 8))."""
    return expit(logit / np.sqrt(1.0 + np.pi / 8.0 * variance))
