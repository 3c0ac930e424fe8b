"""`python -m mpispec`: the same as the `mpispec` command, for environments whose bin folder is not on the PATH."""

from mpispec.cli import main

if __name__ == "__main__":
    main()
