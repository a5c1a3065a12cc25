"""The training stages; each file reads as its algorithm."""
