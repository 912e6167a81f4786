"""Media <-> tokens: the image tokenizer, the speech tokenizer and the speech decoder."""
