"""Artefacts that other programs load, each replayed in a fresh process before it counts as done."""

FORMATS = {
    "peft": "the adapter, for plain peft and transformers",
    "merged": "a whole model in 16 bits with the adapter in it",
    "gguf": "the adapter, for llama.cpp and Ollama",
}
"""What can be written, in the words of forms and help."""
