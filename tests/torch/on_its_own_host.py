"""`mpispec` on ranks as if each had a host of its own: `mpirun -np N python -m tests.torch.on_its_own_host FOLDER ...`.

Rank N has its caches in FOLDER/N, and asks the hub as `rankN`.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mpispec.transport.environment import launched_rank


def main() -> None:
    rank, homes = launched_rank(), Path(sys.argv.pop(1))
    os.environ["HF_ENDPOINT"] += f"/rank{rank}"
    os.environ["HF_HOME"], os.environ["MPISPEC_CACHE"] = str(homes / str(rank)), str(homes / str(rank) / "mpispec")
    from mpispec.cli import main as command  # after the variables are set

    command()


if __name__ == "__main__":
    main()
