"""How fast is each replica? Prefill rates as measured, and bytes per token as counted.

A turn that streams shows its prefill: from the moment when it was at the head of the engine's queue
to its first byte, over the tokens that were not cached. What disturbs such a sample (a batch of
decodes, another front door's turn) only ever makes it slower, so that faster samples are believed
sooner. A replica without samples is taken to be as fast as its model's others, and a model without
samples as the configuration's guess.
"""

from __future__ import annotations

from collections.abc import Collection

_FASTER, _SLOWER = 0.4, 0.15
"""Weight of a new sample that is faster, or slower, than what was believed."""
_STEP = 4.0
"""One sample changes the belief as if it were at most so many times off."""
LEAST_SAMPLE_TOKENS = 256
BYTES_PER_TOKEN_GUESS = 4.0
TURN_GUESS_S = 5.0


class Rates:
    """Prefill seconds a token of replicas and models; bytes a token of models."""

    def __init__(self, guess_tokens_per_s: float) -> None:
        self._guess = guess_tokens_per_s
        self._replicas: dict[str, float] = {}
        self._models: dict[str, float] = {}
        self._bytes: dict[str, float] = {}
        self._answers: dict[str, float] = {}
        self._fresh: dict[str, float] = {}
        self._lasts: dict[str, float] = {}
        self._kept: dict[str, float] = {}

    def prefill(self, replica: str, model: str) -> float:
        """Tokens a second."""
        return self._replicas.get(replica) or self._models.get(model) or self._guess

    def measured(self, replica: str) -> float | None:
        """Tokens a second, where there was a sample."""
        return self._replicas.get(replica)

    def prefilled(self, replica: str, model: str, tokens: int, seconds: float) -> bool:
        """A sample; too small ones are noise, and False is the answer."""
        if tokens < LEAST_SAMPLE_TOKENS or seconds <= 0:
            return False
        rate = tokens / seconds
        for table, name in ((self._replicas, replica), (self._models, model)):
            known = table.get(name)
            if known is None:
                table[name] = rate
                continue
            bounded = min(max(rate, known / _STEP), known * _STEP)
            share = _FASTER if bounded > known else _SLOWER
            table[name] = known * (bounded / known) ** share
        return True

    def bytes_per_token(self, model: str) -> float:
        return self._bytes.get(model, BYTES_PER_TOKEN_GUESS)

    def counted(self, model: str, size_bytes: int, tokens: int) -> None:
        """The engine's own count of a prompt whose bytes we know."""
        if size_bytes > 0 and tokens > 0:
            ratio = min(max(size_bytes / tokens, 0.5), 32.0)
            known = self._bytes.get(model, ratio)
            self._bytes[model] = known + 0.1 * (ratio - known)

    def answer_tokens(self, model: str) -> int:
        """How long answers are, on average."""
        return int(self._answers.get(model, 256.0))

    def answered(self, model: str, tokens: int) -> None:
        known = self._answers.get(model, float(tokens))
        self._answers[model] = known + 0.05 * (tokens - known)

    def turn_s(self, model: str) -> float:
        """How long a turn keeps its engine's slot, on average."""
        return self._lasts.get(model, TURN_GUESS_S)

    def lasted(self, model: str, seconds: float) -> None:
        known = self._lasts.get(model, seconds)
        self._lasts[model] = known + 0.05 * (seconds - known)

    def fresh_tokens(self, model: str) -> float:
        """What a turn computes of its prompt, on average."""
        return self._fresh.get(model, 0.0)

    def went(self, model: str, fresh_tokens: int) -> None:
        known = self._fresh.get(model, float(fresh_tokens))
        self._fresh[model] = known + 0.05 * (fresh_tokens - known)

    def answers_kept(self, model: str) -> float:
        """The share of an answer that the next turn finds in the cache, if its prompt is there.

        Less than one where the template does not write an answer as it was generated.
        """
        return self._kept.get(model, 1.0)

    def found(self, model: str, answer_tokens: int, cached_tokens: int) -> None:
        """Of an answer that was predicted to be cached, so much was; negative: nor its prompt."""
        if answer_tokens >= 16 and cached_tokens > -16:
            known = self._kept.get(model, 1.0)
            share = min(max(cached_tokens / answer_tokens * known, 0.0), 1.0)
            self._kept[model] = max(0.05, known + 0.1 * (share - known))

    def keep_only(self, replicas: Collection[str]) -> None:
        """Models are those of the configuration, and few; replicas come and go."""
        for gone in [r for r in self._replicas if r not in replicas]:
            del self._replicas[gone]
