"""Whether lm-eval's `local-completions` finds the log-likelihoods through a server that llama-cpp-python computes.

python scripts/research likelihoods --lm-eval ~/lm-eval/bin/lm-eval

`pip install 'lm-eval[api]'` belongs into an environment of its own: it brings data frames and much else. The task is
made here, so nothing is downloaded. A server of two ranks on the default model is started and ended.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import llama_cpp
import numpy as np

from mpispec.compute.llama_vocabulary import Vocabulary
from mpispec.models.default import resolve
from research.served import served

QUESTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("The capital of France is", (" Paris", " London", " a small village in the north of Norway")),
    ("Water is made of hydrogen and", (" oxygen", " iron", " chocolate cake with cream")),
    ("Question: What is 2 + 2?\nAnswer:", (" 4", " 5", " The naïve café owner said: “I don't know”.")),
    ("Once upon a time there was a little", (" girl who lived in a house in the woods", " 🙂🙂", " dragon")),
)
"""Contexts, each with what may follow."""
TASK = """
task: mpispec_choices
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{context}}"
doc_to_choice: "{{choices}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{metric: acc}]
"""
CLOSE = 1e-3

Likelihoods = dict[tuple[str, str], float]


def evaluated(lm_eval: Path, url: str, model: str) -> Likelihoods:
    """Return what lm-eval finds for each context and choice."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents = [{"context": context, "choices": list(choices)} for context, choices in QUESTIONS]
        (folder / "data.jsonl").write_text("".join(json.dumps(each) + "\n" for each in documents))
        (folder / "task.yaml").write_text(TASK.replace("DATA", str(folder / "data.jsonl")))
        arguments = f"base_url={url}/v1/completions,model={model},tokenizer_backend=remote,num_concurrent=1"
        argv: Sequence[str] = [
            *(str(lm_eval), "--model", "local-completions", "--model_args", arguments, "--tasks", "mpispec_choices"),
            *("--include_path", name, "--log_samples", "--output_path", str(folder / "out")),
        ]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
        subprocess.run(argv, check=True, env=environment, stdout=subprocess.DEVNULL)
        [samples] = (folder / "out").rglob("samples_*.jsonl")
        return read_samples(samples)


def read_samples(file: Path) -> Likelihoods:
    """Return what lm-eval wrote for each context and choice."""
    found: Likelihoods = {}
    for line in file.read_text().splitlines():
        sample = json.loads(line)
        answers = (answer[0] for answer in sample["filtered_resps"])
        for choice, answer in zip(sample["doc"]["choices"], answers, strict=True):
            found[sample["doc"]["context"], choice] = float(answer)
    return found


def computed(model: Path) -> Likelihoods:
    """Return the same by llama-cpp-python alone, one thread, reading in batches of rows as mpispec does."""
    vocabulary = Vocabulary(model)
    llama = llama_cpp.Llama(
        str(model), n_ctx=512, n_batch=32, n_threads=1, flash_attn=True, logits_all=True, verbose=False
    )
    found: Likelihoods = {}
    for context, choices in QUESTIONS:
        for choice in choices:
            tokens = vocabulary.tokenize(context + choice, special=True, begin=False)
            start = len(vocabulary.tokenize(context, special=True, begin=False))
            llama.reset()
            llama.eval(tokens)
            logits = np.array(llama.scores[start - 1 : len(tokens) - 1], np.float64)
            logits -= logits.max(axis=1, keepdims=True)
            logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
            found[context, choice] = float(logs[range(len(logs)), tokens[start:]].sum())
    llama.close()
    vocabulary.close()
    return found


def report(found: Mapping[tuple[str, str], float], expected: Mapping[tuple[str, str], float]) -> float:
    """Print both beside each other; return the largest difference."""
    for (context, choice), value in expected.items():
        print(f"{value:12.5f} {found[context, choice]:12.5f}  {context!r} {choice!r}")
    return max(abs(found[case] - value) for case, value in expected.items())


@click.command(help=__doc__)
@click.option(
    "--lm-eval", type=click.Path(exists=True, path_type=Path), required=True, help="The program of that name."
)
def main(lm_eval: Path) -> None:
    """Compare, and fail where they differ by more than 0.001."""
    with served(2) as server:
        found = evaluated(lm_eval, server.url, server.model())
    worst = report(found, computed(resolve(None)))
    print(f"largest difference {worst:.2e}")
    if worst > CLOSE:
        raise SystemExit(f"They differ by more than {CLOSE}.")
