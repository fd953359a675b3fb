"""Reward functions by name, and packages that are missing."""

from importlib.util import find_spec
from typing import Any

import pytest

from promptdyn.errors import InputError
from promptdyn.training.loading import check_packages, load_reward
from promptdyn.training.run import RunSettings, make_trainer

SMALL: dict[str, Any] = {"num_prompts": 40, "prompts_per_step": 4, "num_generations": 4}


@pytest.mark.parametrize(
    ("setting", "package"),
    [
        ({"use_vllm": True}, "vllm"),
        ({"report_to": ["tensorboard"]}, "tensorboard"),
        ({"load_in_4bit": True}, "bitsandbytes"),
        ({"use_liger_kernel": True}, "liger_kernel"),
        ({"deepspeed": "zero2.json"}, "deepspeed"),
    ],
)
def test_a_missing_package_is_one_line(setting, package):
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(InputError, match=rf"{next(iter(setting))}=.*{package}.*not installed: pip install"):
        check_packages(setting, [])


def test_a_missing_package_of_an_optimizer_is_one_line(tmp_path):
    if find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is installed")
    with pytest.raises(InputError, match="install `bitsandbytes`"):
        make_trainer(RunSettings(tmp_path, grpo={"optim": "paged_adamw_8bit"}, **SMALL))


def test_trls_own_reward_functions_are_known_by_name():
    answer = [[{"role": "assistant", "content": r"It is \boxed{\frac{1}{2}}."}]]
    graded = load_reward("accuracy_reward")(completions=answer, solution=[r"\frac{2}{4}"])
    assert graded == [1.0]
    thought = [
        [{"role": "assistant", "content": "<think>\nWell.\n</think>\n4"}],
        [{"role": "assistant", "content": "4"}],
    ]
    for name in ("think_format_reward", "trl.rewards.think_format_reward", "trl.rewards:think_format_reward"):
        assert load_reward(name)(completions=thought) == [1.0, 0.0]
