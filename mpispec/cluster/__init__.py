"""What concerns the whole job rather than one rank: joining it, its plan for people to read, leaving it together."""
