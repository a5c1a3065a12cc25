"""What the Train tab knows: advice, forms, a run's progress in numbers, words and charts."""
