"""Let the policy read the prompts: features from its hidden states, in one forward pass without generation."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from promptdyn.errors import InputError
from promptdyn.features import LEAST_SPREAD, Floats, PrincipalAxes
from promptdyn.storage import read_state, write_state

__all__ = ["PolicyReader"]


class PolicyReader:
    """Reads prompts with the policy: one forward pass, without generation.

    The features are principal components of the last layer's hidden states (of their mean over the prompt, and of the
    last token's), the entropy and the largest log-probability of the first answer token, and the length in tokens. Axes
    and scales are those of the first pool that is read, so that later readings, by a policy that has learned since, can
    be compared.

    Args:
        model: a causal language model of transformers, whole on each process (not sharded).
        tokenizer: its tokenizer.
        num_components: number of principal components of each hidden state; default 6.
        batch_tokens: most tokens in a batch, padding included; default 16,384. A batch has at least one prompt.
        cache: file that stores the first pool's features and axes. If the same weights wrote it, and it has prompts of
            the pool, its axes are used and only prompts that it lacks are read. Default: no file.
        progress: function of (prompts read, prompts in all). Default: a progress bar on stderr.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        num_components: int = 6,
        batch_tokens: int = 2**14,
        cache: str | Path | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.num_components, self.batch_tokens = num_components, batch_tokens
        self.cache, self.progress = cache, progress
        self._axes: list[PrincipalAxes] = []  # of the mean state, of the last state, and of the plain numbers

    def read(self, prompts: Sequence[str | list[dict[str, Any]]]) -> Floats:
        """Return the features of prompts.

        Args:
            prompts: (prompt,) texts, or conversations in TRL's format.

        Returns:
            (prompt feature) numbers: 2 num_components + 3 features, fewer for a pool with fewer prompts.

        Raises:
            InputError: no prompts, a prompt that is empty or neither text nor conversation, or a model without hidden
                states.
        """
        if len(prompts) == 0:
            raise InputError("no prompts to read: give at least one")
        texts = [self._text(prompt, row) for row, prompt in enumerate(prompts)]
        if self._axes:
            return self._along(self._read(texts))
        hashes, key = _hashes(texts), "" if self.cache is None else self._key()
        features = self._load_cache(key, hashes) if key else {}
        missing = [row for row, text_hash in enumerate(hashes) if text_hash not in features]
        if missing:
            parts = self._read([texts[row] for row in missing])
            if not features:
                counts = (self.num_components, self.num_components, 0)
                self._axes = [
                    PrincipalAxes.fit(part, count) if count else _plain(part)
                    for part, count in zip(parts, counts, strict=True)
                ]
            features |= zip((hashes[row] for row in missing), self._along(parts), strict=True)
            if key:
                self._save_cache(key, features)
        return np.stack([features[text_hash] for text_hash in hashes])

    def _along(self, parts: tuple[NDArray, NDArray, NDArray]) -> Floats:
        return np.concatenate([axes.along(part) for axes, part in zip(self._axes, parts, strict=True)], axis=1)

    def _text(self, prompt: Any, row: int) -> str:
        if isinstance(prompt, str) and prompt:
            return prompt
        if isinstance(prompt, list) and prompt and getattr(self.tokenizer, "chat_template", None):
            return str(self.tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
        if isinstance(prompt, list) and prompt:
            raise InputError(f"prompt {row} is a conversation, and the tokenizer has no chat template: set one")
        raise InputError(f"prompt {row} is {str(prompt)[:40]!r}: need a text or a conversation")

    def _read(self, texts: list[str]) -> tuple[NDArray, NDArray, NDArray]:
        """Return (prompt dimension) mean and last hidden states; (prompt, 3) entropy, log-probability and length."""
        model, training = self.model, self.model.training
        # Ask for the last token's logits only, if the model can: those of all are (prompt token vocabulary).
        last_only = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}
        tokens: list[list[int]] = self.tokenizer(texts)["input_ids"]
        # Prompts of similar length share a batch, so that little is padded.
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        mean: list[Any] = []
        last: list[Any] = []
        numbers: list[Any] = []
        done = 0
        model.eval()
        try:
            with torch.no_grad(), self._watched(len(tokens)) as report:
                for batch in _batches([tokens[i] for i in order], self.batch_tokens):
                    longest = len(batch[-1])
                    padded = [[self.tokenizer.pad_token_id or 0] * (longest - len(row)) + row for row in batch]
                    mask_rows = [[0] * (longest - len(row)) + [1] * len(row) for row in batch]
                    attention_mask = torch.tensor(mask_rows, device=model.device)
                    output = model(
                        input_ids=torch.tensor(padded, device=model.device),
                        attention_mask=attention_mask,
                        output_hidden_states=True,
                        use_cache=False,
                        **last_only,
                    )
                    if not output.get("hidden_states"):
                        raise InputError(
                            f"{type(model).__name__} returns no hidden states: take features from columns of the "
                            "dataset (features:features=COLUMN), or cluster the prompts by labels"
                        )
                    states, mask = output["hidden_states"][-1].float(), attention_mask[..., None].float()
                    length = mask.sum(dim=1)
                    chances = torch.log_softmax(output["logits"][:, -1].float(), dim=-1)
                    entropy = -(chances.exp() * chances.clamp(min=-1e4)).sum(dim=-1, keepdim=True)
                    mean.append(((states * mask).sum(dim=1) / length).cpu())
                    last.append(states[:, -1].cpu())
                    numbers.append(torch.cat([entropy, chances.max(dim=-1, keepdim=True).values, length], dim=1).cpu())
                    done += len(batch)
                    report(done, len(order))
        finally:
            model.train(training)
        rank = np.argsort(order)

        def whole(parts: list[Any]) -> NDArray[np.float64]:
            array: NDArray[np.float64] = torch.cat(parts).numpy().astype(np.float64)[rank]
            for row in np.unique(np.argwhere(~np.isfinite(array))[:, 0])[:1]:
                raise InputError(f"the policy's reading of prompt {row} is not finite: are its weights sound?")
            return array

        return whole(mean), whole(last), whole(numbers)

    @contextmanager
    def _watched(self, total: int) -> Iterator[Callable[[int, int], None]]:
        if self.progress is not None:
            yield self.progress
            return
        with Progress(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("reading prompts", total=total)
            yield lambda done, of: bar.update(task, completed=done)

    def _key(self) -> str:
        """Return a hash of settings and weights; the first entries of each parameter tell policies apart."""
        digest = hashlib.sha256(f"{self.num_components}".encode())
        for name, parameter in self.model.named_parameters():
            digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
            digest.update(parameter.detach().flatten()[:64].float().cpu().numpy().tobytes())
        return digest.hexdigest()

    def _load_cache(self, key: str, hashes: list[int]) -> dict[int, Floats]:
        """Load the cache's axes and return its features by prompt hash; none if its prompts or weights are others."""
        assert self.cache is not None
        if not Path(self.cache).is_file():
            return {}
        values, arrays = read_state(self.cache, "features")
        if values.get("key") != key or not np.isin(arrays["marks"], np.array(hashes, np.uint64)).any():
            return {}
        self._axes = [PrincipalAxes(*(arrays[f"{field}_{i}"] for field in PrincipalAxes._fields)) for i in range(3)]
        return dict(zip(arrays["marks"].tolist(), arrays["features"], strict=True))

    def _save_cache(self, key: str, features: Mapping[int, Floats]) -> None:
        assert self.cache is not None
        arrays = {f"{field}_{i}": value for i, axes in enumerate(self._axes) for field, value in axes._asdict().items()}
        arrays |= {"marks": np.fromiter(features, np.uint64), "features": np.stack(list(features.values()))}
        write_state(self.cache, "features", {"key": key}, arrays)


def _batches(rows: list[list[int]], batch_tokens: int) -> Iterator[list[list[int]]]:
    """Yield rows of tokens, shortest first, in batches that have at most `batch_tokens` tokens with their padding."""
    start = 0
    for stop in range(1, len(rows) + 1):
        if stop == len(rows) or len(rows[stop]) * (stop + 1 - start) > batch_tokens:
            yield rows[start:stop]
            start = stop


def _hashes(texts: list[str]) -> list[int]:
    """Return a (prompt,) hash of each text."""
    return [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]


def _plain(points: NDArray) -> PrincipalAxes:
    """Return axes that leave each dimension by itself."""
    spread = points.std(axis=0)
    return PrincipalAxes(points.mean(axis=0), np.eye(points.shape[1]), np.where(spread > LEAST_SPREAD, spread, 1.0))
