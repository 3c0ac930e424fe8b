"""Multi-node MPI inference for large language models, made fast by speculating through the pipeline."""

__version__ = "0.1.0"
