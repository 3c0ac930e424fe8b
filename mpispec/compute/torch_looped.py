"""A llama whose layers are applied several times: the weights that SPEED shares between cycles (arXiv 2310.12072).

The model is the embedding, `num_cycles` times the same block of layers, then norm and LM head. After any cycle norm and
LM head may be applied, too: an early exit. A folder of such a model says `looped_llama` in its config; transformers
knows that type once this module is loaded. `scripts/research looped` trains one.
"""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.modeling_outputs import BaseModelOutputWithPast


@strict
class LoopedLlamaConfig(LlamaConfig):
    """`num_hidden_layers` is how many layers the block has, `num_cycles` how often it is applied."""

    model_type = "looped_llama"
    num_cycles: int = 1


class LoopedLlamaModel(LlamaModel):
    """The embedding and all cycles; caches nothing, since a layer has other keys and values in each cycle."""

    def __init__(self, config: LoopedLlamaConfig) -> None:
        super().__init__(config)
        # What a llama applies after its layers would come after each cycle.
        self.final_norm: torch.nn.Module = self.norm
        self.norm: torch.nn.Module = torch.nn.Identity()

    def forward(
        self, input_ids: torch.Tensor | None = None, inputs_embeds: torch.Tensor | None = None, **options: Any
    ) -> BaseModelOutputWithPast:
        """Return the last hidden state, normed, and as `hidden_states` those after each cycle, which are not."""
        options.update(use_cache=False, cache=None)
        states = [self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds]
        for _ in range(self.config.num_cycles):
            states.append(super().forward(inputs_embeds=states[-1], **options).last_hidden_state)
        return BaseModelOutputWithPast(last_hidden_state=self.final_norm(states[-1]), hidden_states=tuple(states[1:]))


class LoopedLlamaForCausalLM(LlamaForCausalLM):
    """`LoopedLlamaModel` with the LM head."""

    config_class = LoopedLlamaConfig

    def __init__(self, config: LoopedLlamaConfig) -> None:
        super().__init__(config)
        self.model = LoopedLlamaModel(config)
        self.post_init()


AutoConfig.register(LoopedLlamaConfig.model_type, LoopedLlamaConfig)
AutoModelForCausalLM.register(LoopedLlamaConfig, LoopedLlamaForCausalLM)
