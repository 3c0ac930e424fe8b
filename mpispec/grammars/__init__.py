"""What answers must look like: grammars spelled for llguidance, compiled for a vocabulary, walked along texts."""
