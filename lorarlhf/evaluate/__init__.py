"""Is it any good? Statistics of votes, scores and answers, and what they say in words. Knows no torch, no screen."""
