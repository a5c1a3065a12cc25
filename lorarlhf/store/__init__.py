"""What happened, as rows: votes, runs, metrics, samples. Knows SQLite and nothing of models."""
