"""TRL's trainers, with the prompts of every generation chosen by a `Selector`.

Two lines of a GRPO script change, the import and the trainer's class:

    from promptdyn.training.trl import SelectionGRPOTrainer

    trainer = SelectionGRPOTrainer(model, reward_funcs, args=GRPOConfig(..., max_steps=500), train_dataset=dataset)
    trainer.train()

A generation asks the selector for its prompts at the moment it starts, so the choice uses the rewards of the generation
just before. A sampler could not do that, because dataloaders read ahead. TRL's own sampler and dataloader stay, and
tell when to generate; the trainer replaces the rows that they bring.

Only the main process uses the `Session`; the others receive its choice. The rest (generation, vLLM, losses, evaluation,
checkpoints) is TRL's, unchanged.
"""

from promptdyn.training.dataset import prompt_ids, prompts
from promptdyn.training.trl.mixin import HISTORY_FILE, SelectionMixin
from promptdyn.training.trl.trainers import SelectionGRPOTrainer, SelectionRLOOTrainer

__all__ = ["HISTORY_FILE", "SelectionGRPOTrainer", "SelectionMixin", "SelectionRLOOTrainer", "prompt_ids", "prompts"]
