"""What clients send and read, in the forms of OpenAI and Anthropic: requests checked, answers as dictionaries."""
