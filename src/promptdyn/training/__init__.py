"""Live training: trainers that let a selector choose their prompts, and runs and races of them. Import from its parts.

Adapters of trainers: `trl`, `verl`, `slime`, `skyrl`, `prime_rl`. What they share: `dataset`, `recipes`; `driver` for
trainers whose data and policy are in different processes; `dynamic_sampling`, `reading`, `checkpoints` for those
where they are in one. What `promptdyn train | race | demo` run: `run`, `race`, `demo`, and the embedded `tasks` and
`policy`.
"""
