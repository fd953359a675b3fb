"""vLLM itself, on the CPU: the same policy as with transformers, the same answers."""

import numpy as np
import pytest

from command_line import promptdyn_command
from promptdyn import InputError, RewardHistory
from promptdyn.training import tasks
from promptdyn.training.rollout import ROLLOUT_ENGINES, Sampling, grade, roll_out

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("default")]  # vLLM's imports warn of much

SETTINGS = "dtype=float32,enforce_eager=true,max_model_len=64,gpu_memory_utilization=0.1"  # of the memory, without GPU


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from padded_heads import save_with_wide_heads

    folder = tmp_path_factory.mktemp("model") / "wide"
    save_with_wide_heads(folder)
    return folder


@pytest.fixture(scope="module")
def generators(folder):
    names = (f"vllm:{SETTINGS}", "transformers:batch_size=512")
    return [ROLLOUT_ENGINES.parse_one(name).load(str(folder)) for name in names]


def test_the_likeliest_completions_are_the_same(generators):
    prompts = [row["prompt"] for row in tasks.make_pool("arithmetic", 200, 1)]
    by_vllm, by_transformers = (
        roll_out(generator, prompts, Sampling(1, 8, temperature=0.0)) for generator in generators
    )
    assert by_vllm.completion_ids == by_transformers.completion_ids
    assert by_vllm.cut_off == by_transformers.cut_off
    assert by_vllm.completions == by_transformers.completions


def test_success_rates_agree(generators):
    rows = tasks.make_pool("arithmetic", 300, 2)
    prompts = [row["prompt"] for row in rows]
    counts = []
    for generator in generators:
        rollouts = roll_out(generator, prompts, Sampling(16, 8), seed=3)
        counts.append(grade(rollouts, rows, [tasks.exact_answer]).values.reshape(300, 16).sum(axis=1))
    difference, rate = counts[0] - counts[1], (counts[0] + counts[1]) / 32
    assert abs(difference.mean()) < 4 * np.sqrt(2 * 16 * (rate * (1 - rate)).mean() / 300)
    assert np.corrcoef(*counts)[0, 1] > 0.95


def test_seeds_make_rollouts_again(generators):
    prompts, sampling = ["12*7=", "13*8=", "1+1="], Sampling(8, 8)
    first = roll_out(generators[0], prompts, sampling, seed=1)
    assert roll_out(generators[0], prompts[:2], sampling, seed=1).completions == first.completions[:16]
    assert roll_out(generators[0], prompts, sampling, seed=2) != first
    assert len(set(first.completions[:8])) > 1


def test_more_prompts_than_vllm_reads_at_once(generators):
    prompts = ["+".join("1" * n) + "=" for n in range(21, 27)] * 30  # 8,000 tokens, of which it takes 4,096 by itself
    rollouts = roll_out(generators[0], prompts, Sampling(8, 4), seed=1)
    assert len(rollouts.completions) == 8 * 180
    assert roll_out(generators[0], prompts, Sampling(8, 4), seed=1) == rollouts


def test_cut_off_and_too_long(generators):
    rollouts = roll_out(generators[0], ["99*99="], Sampling(8, 2))
    assert all(rollouts.cut_off)
    assert {len(ids) for ids in rollouts.completion_ids} == {2}
    with pytest.raises(InputError, match="vLLM: "):
        roll_out(generators[0], ["1+" * 40 + "1="], Sampling(8, 8))


def test_a_recording_by_the_command_goes_on(folder, tmp_path):
    options = [
        *("--engine", f"vllm:{SETTINGS},batch_size=256", "--model", folder, "--prompts", "arithmetic"),
        *("--max-completion-length", 8, "--out", tmp_path / "pool.parquet", "--num-prompts", 120),
    ]
    done = promptdyn_command("record", *options, "--max-prompts", 40)
    assert done.returncode == 0, done.stderr
    done = promptdyn_command("record", *options)
    assert done.returncode == 0, done.stderr
    assert "40 of 120 prompts are rolled out: goes on" in done.stderr
    history = RewardHistory.from_parquet(tmp_path / "pool.parquet")
    assert (len(history), history.num_prompts, history.pool_size) == (120, 120, 120)
    assert 0.2 < history.summary()["success_rate"] < 0.8
    print(done.stdout)


def test_a_folder_without_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="merge the two"):
        ROLLOUT_ENGINES.parse_one("vllm").load(str(tmp_path))
    with pytest.raises(InputError, match="cannot be loaded by vLLM"):
        ROLLOUT_ENGINES.parse_one("vllm").load(str(tmp_path / "nothing"))
