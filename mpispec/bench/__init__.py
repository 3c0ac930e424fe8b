"""What the fixed costs are: a hop, an idle rank, a stage's memory, and where a rank's time goes."""
