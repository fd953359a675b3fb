"""Verdicts on draws."""

from promptdyn.inference.convergence import judge


def test_a_verdict_says_no_number_is_above_itself():
    """1.0103 and 99.7 look like 1.010 and 100 where numbers are rounded to the nearest."""
    converged, verdict, _ = judge({"rate": 1.0103, "gap": 1.001}, {"rate": 99.7, "gap": 400.0}, 0, num_chains=2)
    assert not converged
    assert "R-hat of rate is 1.011, above 1.01" in verdict
    assert "rate has 99 effective draws, below 100" in verdict
    converged, verdict, _ = judge({"rate": 1.0099}, {"rate": 100.2}, 0, num_chains=2)
    assert converged
    assert verdict == "converged: R-hat at most 1.010, at least 100 effective draws, no divergence"
    assert "no draw moved" in judge({}, {}, 0, num_chains=1)[1]
