"""What the Compare tab knows: the same prompt to several adapters, and a chat."""
