"""What is told about a compressed network."""
