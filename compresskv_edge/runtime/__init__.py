"""A model at work: `Llama`, what it evicts, what it saves."""
