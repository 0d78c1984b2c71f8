"""Sessions: what a `Llama` has read, as an object and as a file."""
