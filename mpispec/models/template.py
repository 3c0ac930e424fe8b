"""Render a model's chat template. It is a program from a stranger's file, so a process of its own does it."""

from __future__ import annotations

import atexit
import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mpispec.models.errors import ModelError, printable
from mpispec.models.template_traits import probe

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What most models without a template of their own were trained with."""
SECONDS = 2.0
"""CPU time of one rendering; that of a long chat takes milliseconds."""
MEMORY = 512 << 20
"""Bytes of address space of the process that renders; 25 MB of it are Python and jinja2."""


class ChatTemplate:
    """Turns messages into the text that the model was trained to continue. Any thread may render."""

    def __init__(self, source: str | None, bos: str = "", eos: str = "") -> None:
        """Compile a template that may use the texts of the tokens `bos` and `eos`; without one, ChatML.

        Raises ModelError.
        """
        self.note = "" if source else "The model has no chat template; ChatML is used, which it may not understand."
        """A sentence for the user, or empty."""
        self._names = {"bos_token": bos, "eos_token": eos}
        self.source = source or CHATML
        """Its program."""
        kind, said = _process.ask(self.source, None)
        if kind != "text":
            raise ModelError(f"The model's chat template is unusable ({said}); prompt without it.")
        self.traits = probe(self.render)
        """What it takes."""
        if not self.traits.shows_words:
            self.note = "The model's chat template does not show what a user says; chats will be of no use with it."

    def render(self, messages: Sequence[Mapping[str, Any]], /, add_generation_prompt: bool = True, **names: Any) -> str:
        """Return the prompt for `messages`, each with `role` and `content`. Raises ModelError."""
        everything = {**self._names, **names, "messages": messages, "add_generation_prompt": add_generation_prompt}
        kind, said = _process.ask(self.source, everything)
        if kind == "refuses":
            raise ModelError(f"The model's chat template refuses these messages: {said}.")
        if kind == "fails":
            raise ModelError(f"The model's chat template fails ({said}); prompt without it.")
        return said


class TemplateProcess:
    """mpispec.models.template_process, started at the first request and again where a template was its end."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.end)

    def ask(self, source: str, names: Mapping[str, Any] | None) -> tuple[str, str]:
        """Return what `template_process.answer` returns; if it does not, `fails` and the reason."""
        request = json.dumps({"source": source, "names": names}).encode() + b"\n"
        line = b""
        with self._lock:
            process = self._started()
            assert process.stdin is not None and process.stdout is not None
            try:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(request)
                    process.stdin.flush()
                    line = process.stdout.readline()
            finally:
                if not line.endswith(b"\n"):  # it ended, or this thread was interrupted and an answer may still come
                    self.end()
        if line.endswith(b"\n"):
            kind, said = json.loads(line)
            return kind, said if kind == "text" else printable(said).rstrip(".")
        if process.returncode == -signal.SIGPROF:
            return "fails", f"it takes more than {SECONDS:g} s"
        return "fails", f"the process that renders it ended with {process.returncode}"

    def end(self) -> None:
        """Kill the process; the next request starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.end()
            program = Path(__file__).with_name("template_process.py")
            self._process = subprocess.Popen(
                [sys.executable, program, str(SECONDS), str(MEMORY)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for this process
            )
        return self._process


_process = TemplateProcess()
