"""Train a llama whose layers are applied several times, so that the exit after each cycle writes what the last does."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy, softmax
from transformers import PreTrainedTokenizerFast

from mpispec.compute.torch_looped import LoopedLlamaConfig, LoopedLlamaForCausalLM

BEGIN, END = "<|begin|>", "<|end|>"
VOCABULARY = 1024
CONTEXT = 256
"""Tokens of a window that is learnt from, and the most that the model says it reads."""
HEAD_SIZE = 64
LEARNING_RATE = 4e-3
WARM_UP = 0.03
"""Share of the training in which the learning rate grows."""
FIRST_CYCLE, ALL_CYCLES = 0.2, 0.6
"""Shares of the training between which cycles are added. Before, steps cost least, and most is learnt quickly."""
EXIT_WEIGHT = 0.5
"""What the exits before the last one weigh together, each against the text and against the last one's distribution."""
REPORT_EVERY = 20
"""Steps."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a model is and how long it is trained."""

    width: int = 384
    layers: int = 4
    """Of the block, which is applied in each cycle."""
    cycles: int = 4
    seed: int = 0
    minutes: float = 15.0
    steps: int | None = None
    """Train for so many steps instead of minutes; then the same seed gives the same weights."""
    windows: int = 4
    """Of `CONTEXT` tokens in a step."""
    is_bfloat16: bool = False
    """Multiply in bfloat16; the weights are float32 all the same."""


def learn_tokens(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """Make a byte-level BPE of `VOCABULARY` tokens, which puts BEGIN before every text."""
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[BEGIN, END], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    begin = (BEGIN, bpe.token_to_id(BEGIN))
    bpe.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[begin])
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=BEGIN, eos_token=END, clean_up_tokenization_spaces=False
    )


def stream(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> torch.Tensor:
    """Return the tokens of all texts one after another, each text between BEGIN and END: int64 [tokens]."""
    ids = [token for text in tokenizer(list(texts))["input_ids"] for token in (*text, tokenizer.eos_token_id)]
    return torch.tensor(ids)


def blank(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LoopedLlamaForCausalLM:
    """Return a model with random weights; the width has to be a multiple of `HEAD_SIZE`."""
    torch.manual_seed(recipe.seed)
    heads = recipe.width // HEAD_SIZE
    config = LoopedLlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        intermediate_size=HEAD_SIZE * math.ceil(8 / 3 * recipe.width / HEAD_SIZE),
        num_hidden_layers=recipe.layers,
        num_cycles=recipe.cycles,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LoopedLlamaForCausalLM(config)


def exits(model: LoopedLlamaForCausalLM, tokens: torch.Tensor) -> list[torch.Tensor]:
    """Return the logits after each cycle for int64 [rows, tokens]: float [rows, tokens, vocabulary]."""
    return [model.lm_head(model.model.final_norm(state)) for state in model.model(tokens).hidden_states]


def losses(model: LoopedLlamaForCausalLM, windows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what to minimise, and the cross entropy of the exit after each cycle in nats: float [cycles]."""
    logits = [each.float().flatten(0, 1) for each in exits(model, windows[:, :-1])]
    text = torch.stack([cross_entropy(each, windows[:, 1:].flatten()) for each in logits])
    taught = softmax(logits[-1].detach(), dim=-1)
    earlier = [one + cross_entropy(each, taught) for one, each in zip(text[:-1], logits[:-1], strict=True)]
    return text[-1] + EXIT_WEIGHT * sum(earlier) / max(1, len(earlier)), text.detach()


def train(model: LoopedLlamaForCausalLM, tokens: torch.Tensor, recipe: Recipe) -> int:
    """Train on random windows of `tokens`, int64 [tokens], and return the number of steps. Progress goes to stderr."""
    chance = torch.Generator().manual_seed(recipe.seed)
    pair = optimizers(model)
    model.train()
    step = 0
    for step, share in enumerate(progress(recipe), 1):
        model.config.num_cycles = cycles_at(share, recipe.cycles)
        for group in (group for optimizer in pair for group in optimizer.param_groups):
            group["lr"] = learning_rate(share)
        starts = torch.randint(len(tokens) - CONTEXT, (recipe.windows, 1), generator=chance)
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.is_bfloat16):
            loss, by_exit = losses(model, tokens[starts + torch.arange(CONTEXT + 1)])
        model.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in pair:
            optimizer.step()
        if step % REPORT_EVERY == 0:
            nats = " ".join(f"{each:.3f}" for each in by_exit.tolist())
            print(f"step {step}, {share:.0%}: nats per token after each cycle {nats}", file=sys.stderr, flush=True)
    model.config.num_cycles = recipe.cycles
    model.eval()
    return step


def optimizers(model: LoopedLlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Return Muon for the matrices of the block, which learn in far fewer steps with it, and AdamW for the rest."""
    block = [each for each in model.model.layers.parameters() if each.dim() == 2]
    inside = {id(each) for each in block}
    rest = [each for each in model.parameters() if id(each) not in inside]
    return [
        torch.optim.Muon(block, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def progress(recipe: Recipe) -> Iterator[float]:
    """Yield before each step which share of the training is over."""
    if recipe.steps is not None:
        yield from (step / recipe.steps for step in range(recipe.steps))
        return
    began = time.monotonic()
    while (share := (time.monotonic() - began) / (60 * recipe.minutes)) < 1:
        yield share


def learning_rate(share: float) -> float:
    """Return it where `share` of the training is over: it grows linearly, then falls along a cosine."""
    if share < WARM_UP:
        return LEARNING_RATE * max(share / WARM_UP, 0.01)
    return LEARNING_RATE * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP))) / 2


def cycles_at(share: float, cycles: int) -> int:
    """Return how many cycles are trained where `share` of the training is over."""
    grown = (share - FIRST_CYCLE) / (ALL_CYCLES - FIRST_CYCLE)
    return min(cycles, 1 + max(0, int((cycles - 1) * grown)))


def save(model: LoopedLlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write a folder in Hugging Face's form, weights in float32."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
