"""The mathematics of alignment: pure functions, tensors in, tensors out. Knows no model, no settings, no device."""
