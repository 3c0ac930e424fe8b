"""The commands, a module each but for `bench`, and what they share: flags, prompt, tables for people."""
