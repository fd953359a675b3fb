"""Bars on stderr."""

import pytest

from promptdyn.progress import bars


def test_each_work_has_a_bar_with_the_numbers_to_watch(capsys):
    with bars() as show:
        show("fitting [a]", 1, 2, {"log joint": -1234.5})
        show("forecasting", 1, 1, {})
        show("fitting [a]", 2, 2, {"log joint": float("nan")})
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("fitting [a]")
    assert "2/2" in first
    assert first.rstrip().endswith("log joint –")
    assert second.startswith("forecasting")


def test_work_that_never_began_prints_nothing(capsys):
    with pytest.raises(ValueError, match="refused"), bars():
        raise ValueError("refused")
    assert capsys.readouterr().err == ""
