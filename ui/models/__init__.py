"""What the Base and adapters tab knows: memory, adapters and their cards."""
