"""Write a GGUF model as a folder in Hugging Face's form, through transformers: float32 or bfloat16 safetensors.

python scripts/research export MODEL.gguf FOLDER [--dtype bfloat16]

For trying the torch backend where nothing can be downloaded. Needs `mpispec[torch]`, gguf and accelerate.
"""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--dtype", type=click.Choice(("float32", "bfloat16")), default="float32", show_default=True)
def main(model: Path, folder: Path, dtype: str) -> None:
    """Write MODEL as FOLDER, tokenizer and chat template included."""
    export(model, folder, dtype)


def export(model: Path, folder: Path, dtype: str = "float32") -> None:
    """Write a GGUF file as a folder of several shards, each at most 100 MB."""
    import torch  # noqa: PLC0415  takes seconds
    import transformers  # noqa: PLC0415

    source = {"pretrained_model_name_or_path": str(model.parent), "gguf_file": model.name}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(**source, dtype=getattr(torch, dtype))
    # The weights are no longer quantised, but transformers refuses to save what came from such a file.
    loaded.hf_quantizer, loaded.is_quantized = None, False
    del loaded.config.quantization_config
    loaded.save_pretrained(folder, max_shard_size="100MB")
    transformers.AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
