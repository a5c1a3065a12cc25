"""The app: a Gradio page over the engine's client and the workspace's rows. Knows nothing of torch."""
