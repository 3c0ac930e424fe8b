"""What someone would use instead of mpispec, run on the same hosts with the same files."""
