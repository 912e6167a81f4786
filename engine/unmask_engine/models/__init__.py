"""The networks a bundle is made of, in plain torch, one idea a file."""
