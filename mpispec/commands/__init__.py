"""What the commands share: their options, their prompt, tables for people; and `mpispec simulate`."""
