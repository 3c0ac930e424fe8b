"""Pictures of timelines, studies and comparisons; needs the `plot` extra (matplotlib)."""
