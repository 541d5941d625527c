"""A causal language model as trunk and top, with log-probabilities that never hold (N, T, V)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from rlaif_pl.engine import score
from rlaif_pl.engine.generate import Generated, sample_responses
from rlaif_pl.engine.response_batch import ResponseBatch, assemble, hidden_states, states_before
from rlaif_pl.engine.runner import DecoderRunner
from rlaif_pl.engine.sampling import SamplingParams, StopStrings, before_stop
from rlaif_pl.models.adapters import Lora
from rlaif_pl.models.chat_format import with_turn_end
from rlaif_pl.models.control_tokens import added_around
from rlaif_pl.models.encoding import Encoding, warn_of_doubled
from rlaif_pl.models.model_info import UNNAMED, ModelInfo, require_eos
from rlaif_pl.text import Template

PLAIN = SamplingParams()
TOKENIZED_AT_ONCE = 1024  # texts whose tokens are counted


class CausalModel(nn.Module):
    """A policy: trunk (frozen, shareable; None where the top holds all layers), top and unembedding.

    The last, ``(V, D)``, is frozen unless the top embeds the ids itself; ``config`` is that of the
    whole, uncut model. ``ValueError``: the model's files name no end token; or as ``with_turn_end``.
    """

    def __init__(
        self,
        trunk: DecoderRunner | None,
        top: DecoderRunner,
        unembedding: nn.Linear | score.CappedHead,
        tokenizer: PreTrainedTokenizerBase,
        template: Template,
        config: PreTrainedConfig,
        info: ModelInfo,
    ) -> None:
        super().__init__()
        if template.chat:
            tokenizer, info = with_turn_end(tokenizer, template, info)
        self.trunk = trunk
        self.top = top
        self.unembedding = unembedding
        self.tokenizer = tokenizer
        self.template = template
        self.config = config
        self.info = info
        self.pad = info.pad_token_id
        self.eos = require_eos(info, tokenizer)
        self.stop_token_ids = info.stop_token_ids
        warn_of_doubled(tokenizer, template, info.name)
        # Of the loaded weights; who loads them says which they are.
        self.fingerprint, self.base = UNNAMED, UNNAMED
        self.started_from = UNNAMED  # fingerprint of the weights that a role begins with
        # Whether the weights without adapters are those that `base` names: not where some were folded
        # in, trained whole, left out, or handed over.
        self.rests_on_base = True
        self.lora: Lora | None = None  # what was put on the top, for roles that are to be alike
        self.home: torch.device | None = None  # where it computes; a trainer moves it meanwhile

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.unembedding.weight.device

    @property
    def is_tied(self) -> bool:
        """Whether the model's input and output embeddings are one weight by its config."""
        return bool(getattr(self.config.get_text_config(), "tie_word_embeddings", False))

    @property
    def width(self) -> int:
        """Size of the states that the output embedding reads, ``D``."""
        return int(self.unembedding.weight.shape[1])  # OPT's may be narrower than its layers

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of the tokenizer's tokens, float32. ``(..., D)`` to ``(..., V)``.

        Ids that no token has get -inf where they lie between tokens, and no logit after the last.
        """
        return score.mask_unused(score.head_logits(self.unembedding, hidden), self.info)

    @property
    def encoding(self) -> Encoding:
        """How it reads prompts and responses."""
        return Encoding(self.tokenizer, self.template, self.stop_token_ids)

    def encode(
        self,
        prompts: Sequence[str],
        responses: Sequence[Sequence[str]],
        max_response_tokens: int | None = None,
        *,
        close_cut: bool = True,
    ) -> ResponseBatch:
        """Encode ``G`` prompts with ``K`` responses each, all the same, on this model's device.

        ``Encoding.responses`` says what becomes of responses that are longer.
        """
        rows = self.encoding.prompts(prompts)
        flat = [text for group in responses for text in group]
        tokens = self.encoding.responses(flat, max_response_tokens, close_cut=close_cut)
        batch = assemble(rows, tokens, self.pad)
        sizes = [(len(rows[n // batch.per_prefix]), len(own)) for n, own in enumerate(tokens)]
        self.info.check_length(*max(sizes, key=sum), "max_response_tokens")
        return batch.to(self.device)

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        """Render prompts and tokenize them; each has at least one token."""
        return self.encoding.prompts(prompts)

    def check_lengths(
        self,
        texts: Iterable[tuple[str, Sequence[str] | None]],
        most: int | None,
        cut: str = "max_response_tokens",
    ) -> None:
        """Refuse (ValueError) texts that are longer than the model's positions.

        Few texts are tokenized: a token holds at least a byte, so most are known to be short enough.
        Prompts come with their responses, or None for one of ``most`` tokens, at which responses are
        cut (EOS included); ``cut`` is what a user lowers to shorten them.
        """
        limit = self.info.max_model_len
        if limit is None:
            return
        encoding, control = self.encoding, self.encoding.control
        around, bound = self._around, sys.maxsize if most is None else most
        long: list[tuple[str, Sequence[str] | None]] = []
        for prompt, responses in texts:
            after = bound if responses is None else min(bound, max(map(_bytes, responses)) + around)
            if _bytes(encoding.written(prompt, control)) + around + after > limit:
                long.append((prompt, responses))
        worst = (0, 0)
        rows = self.encode_prompts([prompt for prompt, _ in long])
        for row, (_, responses) in zip(rows, long, strict=True):
            closed = encoding.responses(responses or [], most)
            worst = max(worst, (len(row), max(map(len, closed), default=bound)), key=sum)
        self.info.check_length(*worst, cut)

    def count_cut(self, responses: Iterable[str], most: int) -> int:
        """Count responses that a limit of ``most`` tokens, EOS included, would cut."""
        around, count = self._around, 0
        long = (text for text in responses if _bytes(text) + around > most)
        while part := list(islice(long, TOKENIZED_AT_ONCE)):
            count += sum(len(row) > most for row in self.encoding.responses(part))
        return count

    @property
    def _around(self) -> int:
        """Tokens, at most, that stand around a text's own."""
        turn = self.encoding.turn
        frame = len(turn.before) + len(self.template.response) + len(turn.after)
        return sum(map(len, added_around(self.tokenizer))) + 2 + frame

    def trunk_states(self, batch: ResponseBatch) -> Tensor | None:
        """Run the frozen trunk, if there is one; several roles can start from that. ``(T, D)``."""
        if self.trunk is None:
            return None
        with torch.no_grad():
            return hidden_states(self.trunk, batch)

    def hidden(self, batch: ResponseBatch, below: Tensor | None = None) -> Tensor:
        """Final state before each response token. ``(tokens, D)``; see ``logprobs``."""
        below = self.trunk_states(batch.inputs) if below is None else below
        return states_before(self.top, batch, below)

    def logprobs(
        self, batch: ResponseBatch, below: Tensor | None = None, params: SamplingParams = PLAIN
    ) -> Tensor:
        """Log-probability of each response token, 0 at padding. ``(N, R)`` float32.

        ``below`` are the trunk states of ``batch.inputs``, where they are known; ``params`` says how
        the tokens were drawn.
        """
        return self.token_logprobs(self.hidden(batch, below), batch, params).logprobs

    def token_logprobs(
        self,
        hidden: Tensor,
        batch: ResponseBatch,
        params: SamplingParams = PLAIN,
        *,
        entropy_gradient: bool = False,
        drawn_from: score.Drawer | None = None,
    ) -> score.TokenLogprobs:
        """Log-probability and entropy of each response token, 0 at padding. ``(N, R)``.

        ``hidden`` are the states before them, ``(tokens, D)``. Filters of ``params`` leave out the
        tokens that were not to be drawn, by this policy or by ``drawn_from``; ``entropy_gradient`` says
        whether the entropy is differentiable.
        """
        taken = batch.response_ids.flatten().index_select(0, batch.response_places)
        found = score.token_logprobs(
            hidden,
            self.unembedding,
            taken,
            params,
            entropy_gradient=entropy_gradient,
            info=self.info,
            drawn_from=drawn_from,
        )
        return score.TokenLogprobs(*map(batch.spread, found))

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        seeds: Sequence[int],
        *,
        keep_trunk: bool = False,
        close: bool = False,
    ) -> Generated:
        """Sample responses, one for each of ``seeds``; see ``sample_responses`` of the engine.

        ``keep_trunk`` also returns the trunk's states, with ``close`` up to an EOS after every
        response, where a reward is read.
        """
        self.info.check_length(max(map(len, prompts)), params.max_new_tokens, "max_new_tokens")
        return sample_responses(
            self,
            prompts,
            params,
            seeds,
            self.stop_token_ids,
            stop=StopStrings(params.stop, self.decode) if params.stop else None,
            keep_trunk=keep_trunk,
            close_with=self.eos if close else None,
        )

    def decode(self, tokens: Sequence[int]) -> str:
        """Return a text as it is, without special tokens."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def texts(self, tokens: Sequence[Sequence[int]], params: SamplingParams = PLAIN) -> list[str]:
        """Decode responses as they were drawn, without what ended them, special tokens and white space.

        What ends them are the stop tokens and strings of ``params`` and of the model.
        """
        stops = {*self.stop_token_ids, *params.stop_token_ids}
        written = [list(row[:-1] if row and row[-1] in stops else row) for row in tokens]
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return [before_stop(text, params.stop).strip() for text in texts]


def _bytes(text: str) -> int:
    return len(text.encode(errors="replace"))
