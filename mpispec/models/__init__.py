"""Model files: reading and cutting GGUF, certified architectures, the default model, chat templates."""
