"""What transformers makes of the files of a model: its config, its class, and tensors that are read when it asks."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import safetensors
import transformers
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from mpispec.models import hf_folder
from mpispec.models.cut import cache_folder
from mpispec.models.errors import ModelError

_AUTO_CLASS = "AutoModelForCausalLM"


def read_config(folder: Path, runs_code: bool = False) -> Any:
    """Return the config of a model folder. Raises ModelError, also for one that brings code which may not be run."""
    transformers.utils.logging.set_verbosity_error()
    hf_folder.check_code(folder, runs_code)
    try:
        with _alone() if runs_code else nullcontext():
            return transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=runs_code)
    except ModelError:
        raise
    except Exception as error:  # what a folder's own code raises is anything
        raise ModelError(f"transformers does not know the model of {folder}: {first_sentence(error)}.") from error


def class_of(config: Any, folder: Path | None = None) -> Any:
    """Return the class of the language model with such a config. Raises ModelError where there is none.

    It is the folder's own where the config names one, which `read_config` returns only if that may be run.
    """
    own = (getattr(config, "auto_map", None) or {}).get(_AUTO_CLASS)
    if own is not None and folder is not None:
        try:
            with _alone():
                return get_class_from_dynamic_module(own, folder, local_files_only=True)
        except Exception as error:
            raise ModelError(f"The code of {folder} gives no {_AUTO_CLASS}: {first_sentence(error)}.") from error
    try:
        return transformers.AutoModelForCausalLM._model_mapping[type(config)]
    except KeyError:
        raise ModelError(f"transformers has no language model of type {config.model_type}; choose another.") from None


def quantization_of(name: str | None) -> Any:
    """Return what transformers has to know to round weights when it loads them, None to leave them as they are."""
    if name is None:
        return None
    from torchao.quantization import Int8WeightOnlyConfig  # noqa: PLC0415  not installed as a rule

    return transformers.TorchAoConfig({"int8": Int8WeightOnlyConfig}[name]())


def slices(tensors: Mapping[str, hf_folder.StoredTensor], opened: ExitStack) -> dict[str, Any]:
    """Return tensors by name, none of which is read before transformers asks for it; their files stay open so long."""
    files = {
        file: opened.enter_context(safetensors.safe_open(file, framework="pt"))
        for file in {tensor.file for tensor in tensors.values()}
    }
    return {name: files[tensor.file].get_slice(name) for name, tensor in tensors.items()}


def first_sentence(error: Exception) -> str:
    """Return how the text of a library's error begins, without a full stop."""
    return str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")


@contextmanager
def _alone() -> Iterator[None]:
    """Keep other ranks of this user out: transformers copies a folder's code before it runs it, over what is there."""
    folder = cache_folder("code")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
