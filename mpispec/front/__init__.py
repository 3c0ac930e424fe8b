"""The front process: HTTP, chat, tokenizer and templates apart from rank 0, which has steps to keep (ADR 0046)."""
