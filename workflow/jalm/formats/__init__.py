"""What stages share, one module each: nouns."""
