"""`mpispec bench`: what a cluster, a model and the program itself are capable of."""
