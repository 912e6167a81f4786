"""The decoding maths: one public function an operation, each with a PyTorch reference."""
