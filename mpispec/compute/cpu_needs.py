"""Which instructions this build of llama.cpp may use, and whether this CPU has them; asked before libllama is loaded.

`scripts/setup` leaves the list next to the libraries (`FILE`); it comes from the compiler that built them. A wheel that
was built in another way has no list, and nothing is compared. Standard library only: set-up runs this file by itself,

    cc -march=native -dM -E -x c /dev/null | python cpu_needs.py BUILD > cpu-needs.json
"""

from __future__ import annotations

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

FILE = "cpu-needs.json"
"""Next to `llama_cpp/__init__.py`."""
NATIVE = "native"
"""The build whose compiler was asked for all that its own CPU has."""

# What the compiler calls an instruction set, and what /proc/cpuinfo does, where the names are not alike. Only sets that
# compilers use of their own accord, or llama.cpp by name: no hashing, no ciphers, no cache control.
_X86 = {
    "SSE3": "pni",
    "LZCNT": "abm",
    "BMI": "bmi1",
    "AVXVNNI": "avx_vnni",
    "AVXIFMA": "avx_ifma",
    "AVXVNNIINT8": "avx_vnni_int8",
    "AVXVNNIINT16": "avx_vnni_int16",
    "AVXNECONVERT": "avx_ne_convert",
    "AVX512VBMI2": "avx512_vbmi2",
    "AVX512VNNI": "avx512_vnni",
    "AVX512BITALG": "avx512_bitalg",
    "AVX512VPOPCNTDQ": "avx512_vpopcntdq",
    "AVX512BF16": "avx512_bf16",
    "AVX512FP16": "avx512_fp16",
    "AVX512VP2INTERSECT": "avx512_vp2intersect",
    "AMX_TILE": "amx_tile",
    "AMX_INT8": "amx_int8",
    "AMX_BF16": "amx_bf16",
}
_X86_ALIKE = (
    *("SSSE3", "SSE4_1", "SSE4_2", "SSE4A", "POPCNT", "MOVBE", "BMI2", "TBM", "FMA4", "XOP", "AVX", "AVX2", "F16C"),
    *("FMA", "GFNI", "AVX512F", "AVX512CD", "AVX512DQ", "AVX512BW", "AVX512VL", "AVX512IFMA", "AVX512VBMI"),
)
_ARM = {
    "DOTPROD": "asimddp",
    "MATMUL_INT8": "i8mm",
    "FP16_VECTOR_ARITHMETIC": "asimdhp",
    "BF16_VECTOR_ARITHMETIC": "bf16",
    "QRDMX": "asimdrdm",
    "COMPLEX": "fcma",
    "JCVT": "jscvt",
    "RCPC": "lrcpc",
    "ATOMICS": "atomics",
    "CRC32": "crc32",
    "SVE": "sve",
    "SVE2": "sve2",
    "SVE_MATMUL_INT8": "svei8mm",
    "SME": "sme",
}
_NAMES = {
    **{f"__{name}__": name.lower() for name in _X86_ALIKE},
    **{f"__{name}__": flag for name, flag in _X86.items()},
    **{f"__ARM_FEATURE_{name}": flag for name, flag in _ARM.items()},
}
_CPU_INFO = Path("/proc/cpuinfo")


def needs(macros: str, native_to: frozenset[str] | None = None) -> list[str]:
    """Return the flags, as /proc/cpuinfo names them, that code built with these macros of the compiler may need.

    For a native build `native_to` are the flags of the CPU that it was built on: a kernel older than its CPU has no
    names for the newest instructions, and what was built there runs there.
    """
    defined = set(re.findall(r"^#define (\w+)", macros, re.MULTILINE))
    found = {flag for macro, flag in _NAMES.items() if macro in defined}
    return sorted(found if native_to is None else found & native_to)


def cpu_flags(text: str) -> frozenset[str]:
    """Return what the first CPU of a /proc/cpuinfo has; nothing where the file does not say."""
    line = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(line[1].split()) if line else frozenset()


def missing() -> list[str]:
    """Return what this environment's llama.cpp may use and this CPU lacks. Loads no library."""
    spec = find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return []  # importing it raises the error
    path = Path(spec.origin).with_name(FILE)
    if not path.exists() or not _CPU_INFO.exists():
        return []
    has = cpu_flags(_CPU_INFO.read_text(encoding="utf-8", errors="replace"))
    return [flag for flag in json.loads(path.read_text(encoding="utf-8"))["needs"] if flag not in has]


def sentence(hosts: list[str], flags: list[str]) -> str:
    """Return the message about hosts whose CPU lacks these flags."""
    few = ", ".join(flags[:4]) + (f" and {len(flags) - 4} more" if len(flags) > 4 else "")
    return (
        f"This llama.cpp was built for another kind of CPU than that of {', '.join(hosts)}, which lacks {few}; run "
        "scripts/setup on each kind of host, or scripts/setup --portable once for all of them."
    )


def _write(build: str) -> None:
    own = cpu_flags(_CPU_INFO.read_text(encoding="utf-8", errors="replace")) if build == NATIVE else None
    json.dump({"build": build, "needs": needs(sys.stdin.read(), own)}, sys.stdout, indent=1)


if __name__ == "__main__":
    _write(sys.argv[1])
