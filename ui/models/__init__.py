"""What the Models tab knows: memory, adapters and their cards."""
