"""Render a model's chat template: a program from a stranger's file (CVE-2024-34359), so it runs in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mpispec.models.errors import ModelError, printable
from mpispec.models.template_sandbox import Environment, Refused, budget, joined

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What most models without a template of their own were trained with."""


class ChatTemplate:
    """Turns messages into the text that the model was trained to continue."""

    def __init__(self, source: str | None, bos: str = "", eos: str = "") -> None:
        """Compile a template that may use the texts of the tokens `bos` and `eos`; without one, ChatML.

        Raises ModelError.
        """
        self.note = "" if source else "The model has no chat template; ChatML is used, which it may not understand."
        """A sentence for the user, or empty."""
        self._names = {"bos_token": bos, "eos_token": eos}
        try:
            self._template = Environment().load(source or CHATML)
        except Exception as error:  # Python's compiler refuses some of what jinja2 takes: 20 nested loops, long numbers
            raise ModelError(f"The model's chat template is unusable ({_line(error)}); prompt without it.") from None

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True, **names: Any) -> str:
        """Return the prompt for `messages`, each with `role` and `content`. Raises ModelError."""
        everything = {**self._names, **names, "messages": messages, "add_generation_prompt": add_generation_prompt}
        try:
            with budget():
                return joined(self._template.generate(everything))
        except Refused as error:
            raise ModelError(f"The model's chat template refuses these messages: {_line(error)}.") from None
        except Exception as error:  # a template can provoke any error that Python has
            raise ModelError(f"The model's chat template fails ({_line(error)}); prompt without it.") from None


def _line(error: BaseException) -> str:
    return printable(str(error).strip().partition("\n")[0]).rstrip(".")[:200] or type(error).__name__
