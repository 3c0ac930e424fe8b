"""How messages move between ranks: in this process, or over MPI."""
