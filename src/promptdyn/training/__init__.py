"""Live training: trainers that let a selector choose their prompts, and runs and races of them. Import from its parts.

Adapters of trainers: `trl`, `verl`. What they share: `dataset`, `recipes`, `dynamic_sampling`, `reading`,
`checkpoints`. What `promptdyn train | race | demo` run: `run`, `race`, `demo`, and the embedded `tasks` and `policy`.
"""
