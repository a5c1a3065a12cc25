"""What the Judge tab knows: whether what was trained is any good."""
