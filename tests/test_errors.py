"""Errors: one line each, and the extra to install where a package is missing."""

import pytest

from promptdyn.errors import InputError, install_hint


def test_a_message_is_one_line_of_which_a_long_one_keeps_its_ends():
    assert str(InputError("prompt 'a\nb' is bad:\nmend it")) == "prompt 'a b' is bad: mend it"
    long = str(InputError("bad: " + "x" * 5000 + ": mend it"))
    assert len(long) < 1000
    assert long.startswith("bad: x")
    assert long.endswith("x: mend it")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("numpyro.infer", r"^this needs numpyro: pip install 'promptdyn\[fit\]'$"),
        ("pyro", r"^this needs pyro: pip install 'promptdyn\[pyro\]'$"),
        ("a_package_of_ones_own", "^No module named 'a_package_of_ones_own'$"),
    ],
)
def test_a_missing_package_names_the_extra_that_installs_it(name, message):
    # As where one such block holds another.
    with pytest.raises(ModuleNotFoundError, match=message) as missing, install_hint(), install_hint():
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    assert missing.value.name == name
