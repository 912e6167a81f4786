"""Models, codecs and the batched decoding loop. Knows token ids and tensors; no HTTP, no asyncio."""
