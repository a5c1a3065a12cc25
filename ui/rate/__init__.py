"""What the Rate tab knows: pairs that are drawn ahead, votes, undoing, consistency, progress. No Gradio."""
