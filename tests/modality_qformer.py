"""The Q-Former that tests put behind an audio or point tower: its sizes, its inputs, and transformers' answers."""

import checkpoints
import numpy as np

SIZES = {
    "vocab_size": 31,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 22,
    "max_position_embeddings": 12,
}
QUERIES, SEED = 5, 3


def inputs(rows: int) -> dict[str, np.ndarray]:
    """Queries [Q, D], unequal instructions [B, Tq] with their mask, and a probe [B, Q, D] of the outputs."""
    rng = np.random.default_rng(SEED)
    lengths = 7 - 2 * np.arange(rows)
    mask = (np.arange(7) < lengths[:, None]).astype(np.int32)
    probe = rng.standard_normal((rows, QUERIES, SIZES["hidden_size"])).astype(np.float32)
    queries = rng.standard_normal((QUERIES, SIZES["hidden_size"])).astype(np.float32)
    ids = rng.integers(1, SIZES["vocab_size"], mask.shape).astype(np.int32) * mask
    return {"queries": queries, "ids": ids, "mask": mask, "probe": probe}


def reference(tokens, origin) -> dict[str, np.ndarray]:
    """transformers' Q-Former in float64 over a tower's tokens [B, P, D], torch: its outputs, and the gradients of their
    product with the probe with respect to ``origin``, from which the tokens come, and to the queries."""
    import torch
    from transformers import InstructBlipQFormerConfig, InstructBlipQFormerModel

    config = InstructBlipQFormerConfig(**SIZES, encoder_hidden_size=tokens.shape[-1])
    model = InstructBlipQFormerModel(config).double().eval()
    state = {name: checkpoints.values(name, tuple(x.shape), SEED) for name, x in model.named_parameters()}
    model.load_state_dict({name: torch.from_numpy(x) for name, x in state.items()}, strict=False)
    given = inputs(len(tokens))
    queries = torch.from_numpy(given["queries"]).double().requires_grad_()
    mask = torch.from_numpy(given["mask"]).long()
    seen = torch.cat([torch.ones(len(tokens), QUERIES, dtype=torch.long), mask], 1)
    found = model(
        input_ids=torch.from_numpy(given["ids"]).long(),
        attention_mask=seen,
        query_embeds=queries.expand(len(tokens), -1, -1),
        encoder_hidden_states=tokens,
    ).last_hidden_state[:, :QUERIES]
    gradients = torch.autograd.grad((found * torch.from_numpy(given["probe"])).sum(), [origin, queries])
    names = ("qformer/output", "qformer/grad_input", "qformer/grad_queries")
    return {name: x.detach().numpy().astype(np.float32) for name, x in zip(names, (found, *gradients), strict=True)}
