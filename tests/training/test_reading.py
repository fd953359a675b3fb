"""The policy reads the prompts: its features, by their definitions."""

import numpy as np
import pytest
import torch

from promptdyn.errors import InputError
from promptdyn.training import policy, reading, tasks

POOL = tasks.make_pool("arithmetic", 120)
PROMPTS = [row["prompt"] for row in POOL]


@pytest.fixture(scope="module")
def reader_parts():
    return policy.load_policy()


def test_the_policy_reads_each_prompt(reader_parts):
    """Against one prompt at a time, by the definitions."""
    model, tokenizer = reader_parts
    told = []
    reader = reading.PolicyReader(model, tokenizer, batch_tokens=400, progress=lambda *done: told.append(done))
    found = reader.read(PROMPTS)
    assert told[-1] == (120, 120)
    assert len(told) > 2
    assert found.shape == (120, 15)
    np.testing.assert_allclose(found.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(found.std(axis=0), 1.0, atol=1e-2)
    each_number, each_mean = [], []
    with torch.no_grad():
        for prompt in PROMPTS:
            tokens = tokenizer([prompt], return_tensors="pt")
            out = model(**tokens, output_hidden_states=True)
            chances = torch.softmax(out.logits[0, -1], -1)
            each_number.append([-(chances * chances.log()).sum(), chances.max().log(), tokens["input_ids"].shape[1]])
            each_mean.append(out.hidden_states[-1][0].mean(dim=0).numpy())
    numbers, means = np.array(each_number), np.array(each_mean)
    np.testing.assert_allclose(found[:, 12:], (numbers - numbers.mean(0)) / numbers.std(0), atol=2e-3)
    cloud = (means - means.mean(0)) / means.std(0)
    left = np.linalg.svd(cloud, full_matrices=False)[0][:, :6] * np.sqrt(len(cloud))
    np.testing.assert_allclose(np.abs((left * found[:, :6]).mean(axis=0)), 1.0, atol=1e-3)

    # A later reading is on the same axes, whatever the pool.
    np.testing.assert_allclose(reader.read(PROMPTS[5:9]), found[5:9], atol=1e-3)
    assert model.training is False


def test_a_batch_holds_so_many_tokens_and_one_prompt_at_least():
    rows = [[0] * size for size in (1, 2, 2, 3, 9, 20, 20)]
    batches = list(reading._batches(rows, 10))
    assert [len(batch) for batch in batches] == [3, 1, 1, 1, 1]
    assert [row for batch in batches for row in batch] == rows
    assert [len(batch) for batch in reading._batches(rows, 10_000)] == [7]


def test_a_reading_is_kept_for_the_same_prompts_and_weights(reader_parts, tmp_path):
    model, tokenizer = reader_parts
    told = []
    args = {"cache": tmp_path / "features.npz", "progress": lambda *done: told.append(done)}
    first = reading.PolicyReader(model, tokenizer, **args).read(PROMPTS)
    reader = reading.PolicyReader(model, tokenizer, **args)
    np.testing.assert_array_equal(reader.read(PROMPTS), first)
    assert len(told) == 1
    np.testing.assert_allclose(reader.read(PROMPTS), first, atol=1e-4)  # read, on the axes that were kept
    assert len(told) == 2
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1.0
    try:
        assert not np.array_equal(reading.PolicyReader(model, tokenizer, **args).read(PROMPTS), first)
    finally:
        with torch.no_grad():
            next(model.parameters())[0, 0] -= 1.0
    assert len(told) == 3


def test_only_prompts_that_joined_are_read_and_on_the_axes_of_the_first_pool(reader_parts, tmp_path):
    told = []
    args = {"cache": tmp_path / "features.npz", "progress": lambda done, total: told.append(total)}
    whole = reading.PolicyReader(*reader_parts, **args).read(PROMPTS[:8])
    reader = reading.PolicyReader(*reader_parts, **args)
    again = reader.read([PROMPTS[9], *PROMPTS[3:8], PROMPTS[8]])
    np.testing.assert_array_equal(again[1:6], whole[3:8])
    assert told[-1] == 2
    np.testing.assert_allclose(reader.read(PROMPTS[8:10]), again[[6, 0]], atol=1e-4)
    told.clear()
    np.testing.assert_array_equal(reading.PolicyReader(*reader_parts, **args).read(PROMPTS[8:10]), again[[6, 0]])
    assert not told
    reading.PolicyReader(*reader_parts, **args).read(PROMPTS[10:12])  # another pool, axes of its own
    assert told[-1] == 2


def test_what_cannot_be_read_is_told(reader_parts):
    model, tokenizer = reader_parts
    reader = reading.PolicyReader(model, tokenizer)
    with pytest.raises(InputError, match="no prompts to read"):
        reader.read([])
    with pytest.raises(InputError, match="prompt 1 is ''"):
        reader.read(["1+1=", ""])
    with pytest.raises(InputError, match="prompt 0 is a conversation, and the tokenizer has no chat template"):
        reader.read([[{"role": "user", "content": "1+1="}]])

    class WithoutStates(type(model)):  # type: ignore[misc]
        def forward(self, *args, output_hidden_states=None, **named):
            return super().forward(*args, **named)

    bare = WithoutStates(model.config)
    with pytest.raises(InputError, match="WithoutStates returns no hidden states: take features from columns"):
        reading.PolicyReader(bare, tokenizer).read(PROMPTS[:2])


def test_one_prompt_and_equal_prompts_are_read(reader_parts):
    for prompts in (PROMPTS[:1], PROMPTS[:1] * 5):
        found = reading.PolicyReader(*reader_parts).read(prompts)
        assert np.isfinite(found).all()
