"""From a conversation to the tokens of a prompt, and from tokens to the text of an answer."""
