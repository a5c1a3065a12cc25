"""One base in memory, and the jobs that run on it."""
