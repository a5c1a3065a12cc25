"""The output layer of a base apart from its transformer, so that logits can be made for a few positions at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from lorarlhf.errors import BaseModelError


def backbone(model: PreTrainedModel) -> nn.Module:
    """Return the transformer below the output layer; it gives `last_hidden_state`."""
    return getattr(model, model.base_model_prefix)


def logits_of(model: PreTrainedModel, hidden_TH: Tensor) -> Tensor:
    """Map hidden states to logits as the model itself does → [T, V].

    A few architectures do more than multiply: Granite divides, Cohere multiplies, Gemma caps softly.
    """
    logits_TV: Tensor = model.get_output_embeddings()(hidden_TH)
    config = model.config.get_text_config()
    if divisor := getattr(config, "logits_scaling", None):
        logits_TV = logits_TV / divisor
    if factor := getattr(config, "logit_scale", None):
        logits_TV = logits_TV * factor
    if cap := getattr(config, "final_logit_softcapping", None):
        logits_TV = torch.tanh(logits_TV / cap) * cap
    return logits_TV


@torch.no_grad()
def check_output_layer(model: PreTrainedModel) -> None:
    """Compare `logits_of` with the model's own logits on two tokens; raise `BaseModelError` if they differ."""
    ids_BL = torch.tensor([[0, 1]], device=model.device)
    own_TV = model(input_ids=ids_BL, use_cache=False).logits[0].float()
    hidden_BLH = backbone(model)(input_ids=ids_BL, use_cache=False).last_hidden_state
    ours_TV = logits_of(model, hidden_BLH[0]).float()
    if not torch.allclose(own_TV, ours_TV, rtol=1e-2, atol=1e-2 * float(own_TV.abs().max())):
        raise BaseModelError(
            f"{type(model).__name__} changes its logits in a way this program does not know; take another architecture"
        )
