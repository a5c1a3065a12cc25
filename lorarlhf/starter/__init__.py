"""The small base model we ship, and the recipe that made it."""
