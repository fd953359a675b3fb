"""The trainer of a race: what it leaves out changes nothing."""

import torch

from known import known
from promptdyn.training.race.trainer import RaceTrainer
from promptdyn.training.run import RunSettings, make_trainer


def test_rollouts_without_advantage_are_left_out_of_the_pass_and_not_missed(tmp_path):
    weights: dict[bool, torch.Tensor] = {}
    passed: dict[bool, list[int]] = {}
    for whole in (True, False):
        settings = RunSettings(
            tmp_path / str(whole),
            dataset="scarce",
            selector="uniform",
            num_prompts=60,
            prompts_per_step=8,
            num_generations=4,
            max_steps=3,
            learning_rate=0.1,
            grpo={"optim": "sgd", "max_grad_norm": 0.0},
        )
        trainer = make_trainer(settings, lambda *_: None, kind=RaceTrainer, budget=96, whole_batches=whole)
        model = known(trainer.model)
        rows = passed.setdefault(whole, [])
        model.register_forward_pre_hook(
            lambda model, _, named, rows=rows: (
                rows.append(len(named["input_ids"])) if model.training and named.get("fused_lm_head") else None
            ),
            with_kwargs=True,
        )
        start = torch.cat([weight.detach().flatten().clone() for weight in model.parameters()])
        trainer.train()
        weights[whole] = torch.cat([weight.detach().flatten() for weight in model.parameters()]) - start
    assert passed[True] == [32] * 3
    assert all(1 <= rows < 24 for rows in passed[False])
    assert weights[True].abs().max() > 1e-3
    torch.testing.assert_close(weights[False], weights[True], rtol=1e-3, atol=1e-6)
