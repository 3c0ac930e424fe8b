"""How well the exit after each cycle writes, and how often it chooses the token that the last one chooses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast

from mpispec.compute.torch_looped import LoopedLlamaForCausalLM
from research.looped_training import BEGIN, CONTEXT, END, exits, stream

PROMPTS = 10
PROMPT_TOKENS = 20
WRITTEN_TOKENS = 64


@dataclass(frozen=True, slots=True)
class ExitFigures:
    """Of the exit after one cycle."""

    bits_per_character: float
    """On text that was held out."""
    held_out_agreement: float
    """Share of the positions of that text at which the greedy token is the last cycle's."""
    written_agreement: float
    """The same on text that the model itself wrote, greedily."""


def measure(
    model: LoopedLlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, held_out: Sequence[str]
) -> tuple[list[ExitFigures], list[str]]:
    """Return the figures of each exit, and what the model wrote: prompt and continuation, up to its end."""
    bits, read = read_held_out(model, tokenizer, held_out)
    texts = write(model, prompts(tokenizer, held_out))
    written = agreement_on(model, texts, tokenizer.eos_token_id)
    figures = [ExitFigures(*each) for each in zip(bits, read, written, strict=True)]
    ended = [tokenizer.decode(text).removeprefix(BEGIN).partition(END)[0] for text in texts]
    return figures, ended


@torch.inference_mode()
def read_held_out(
    model: LoopedLlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, held_out: Sequence[str]
) -> tuple[list[float], list[float]]:
    """Return by cycle the bits per character, for the tokens of the text alone, and the agreement with the last."""
    tokens = stream(tokenizer, held_out)
    nats = torch.zeros(model.config.num_cycles, dtype=torch.float64)
    same = torch.zeros_like(nats)
    for start in range(0, len(tokens) - 1, CONTEXT):
        window = tokens[start : start + CONTEXT + 1]
        is_text = ~torch.isin(window[1:], torch.tensor(tokenizer.all_special_ids))
        logits = torch.cat(exits(model, window[None, :-1]))[:, is_text]
        labels = window[1:][is_text].expand(len(logits), -1)
        nats += cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)
        same += (logits.argmax(-1) == logits[-1].argmax(-1)).sum(1)
    num_text = int((~torch.isin(tokens, torch.tensor(tokenizer.all_special_ids))).sum())
    characters = sum(map(len, held_out))
    return (nats / math.log(2) / characters).tolist(), (same / num_text).tolist()


def prompts(tokenizer: PreTrainedTokenizerFast, held_out: Sequence[str]) -> torch.Tensor:
    """Return the beginnings of long sections from all over the text, BEGIN included: int64 [PROMPTS, PROMPT_TOKENS]."""
    long = [ids for ids in tokenizer(list(held_out))["input_ids"] if len(ids) > PROMPT_TOKENS + WRITTEN_TOKENS]
    chosen = long[:: len(long) // PROMPTS][:PROMPTS]
    return torch.tensor([ids[:PROMPT_TOKENS] for ids in chosen])


@torch.inference_mode()
def write(model: LoopedLlamaForCausalLM, texts: torch.Tensor) -> torch.Tensor:
    """Continue each row greedily by `WRITTEN_TOKENS`, whatever they are."""
    for _ in range(WRITTEN_TOKENS):
        texts = torch.cat([texts, model(texts, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return texts


@torch.inference_mode()
def agreement_on(model: LoopedLlamaForCausalLM, texts: torch.Tensor, end: int) -> list[float]:
    """Return by cycle at which share of the written tokens, up to the end of the text, its exit chooses the last's."""
    choices = torch.stack([logits.argmax(-1)[:, PROMPT_TOKENS - 1 :] for logits in exits(model, texts[:, :-1])])
    ends = texts[:, PROMPT_TOKENS:] == end
    is_written = ends.cumsum(1) - ends.long() == 0
    return [float((each == choices[-1])[is_written].double().mean()) for each in choices]
