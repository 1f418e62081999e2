"""Files: reading checkpoints of others, and writing and reading `.terse` files and what they are made of."""
