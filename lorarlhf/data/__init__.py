"""From files and votes to token batches."""
