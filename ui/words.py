"""The few words of the field that the app cannot do without, each in a sentence. Knows no Gradio."""

from __future__ import annotations

WORDS = {
    "Adapter": "A small set of weights on top of the model, which itself never changes. Everything you train is one.",
    "Reward model": "An adapter that has learned from your votes to score answers: high where you would like one.",
    "Policy": "An adapter that answers, trained so that its answers score high.",
    "PPO": "How a policy is trained: it answers, the reward model scores, and what scored high becomes likelier.",
    "KL": "How far a policy has moved from where it began, in nats: about 5 is another manner, 30 another model.",
    "SFT": "Supervised fine-tuning: imitating answers that are good as they are. Optional.",
    "Test votes": "A tenth of your votes that nothing is trained on: they tell how good a model is.",
    "Round": "An adapter answers, you vote, a reward model and a policy are trained. That policy answers next.",
}


def words_html() -> str:
    """Write them as a fold."""
    listed = "".join(f"<div><dt>{word}</dt><dd>{meaning}</dd></div>" for word, meaning in WORDS.items())
    return f"<details class='words'><summary>What do the words mean?</summary><dl>{listed}</dl></details>"
