"""Model FLOPs: what the recipe must compute for one example, counted from the configuration alone. A multiplication
with its addition is two.

The vision tower goes forward, and backward if it trains, but for the gradient of the pixels. The Q-Former goes forward
and backward, but no gradient enters the image tokens unless something before them trains. The language model is frozen:
its backward pass makes gradients of activations alone, as many FLOPs as its forward pass, and twice as many for the
attention scores, both sides of which depend on the prompt. A causal score counts where it looks back, the head where a
response token is predicted. Rematerialisation and look-ups count nothing.
"""

import dataclasses
from collections.abc import Mapping

from instructblip_jax.models.bridges.qformer import QFormerConfig
from instructblip_jax.models.language.llama import LlamaConfig
from instructblip_jax.models.language.opt import OptConfig
from instructblip_jax.models.language.t5 import T5Config
from instructblip_jax.models.towers.vit import VitConfig
from instructblip_jax.systems.instructblip import InstructBlipConfig
from instructblip_jax.systems.trainable import TRAINABLE, enters_tower


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Static lengths of a batch: of the instruction, which Q-Former and language model both read, of the response, and
    how many frames a picture has."""

    instruction: int
    response: int
    frames: int = 1


@dataclasses.dataclass(frozen=True)
class Products:
    """Multiply-adds of one example's forward pass: with weights, and between activations (attention scores, mixing)."""

    weights: float
    scores: float

    def __add__(self, other: "Products") -> "Products":
        return Products(self.weights + other.weights, self.scores + other.scores)


def attention(queries: int, keys: int, width: int, inner: int, *, seen: float = 1.0) -> Products:
    """Query and output projections of ``queries`` positions, and their scores over ``keys``, of which a share is
    ``seen``; keys and values come from elsewhere."""
    return Products(2 * queries * width * inner, 2 * seen * queries * keys * inner)


def keys_values(positions: int, width: int, inner: int) -> Products:
    """Key and value projections of ``positions``."""
    return Products(2 * positions * width * inner, 0)


def patch_embedding(config: VitConfig) -> Products:
    """Of one picture."""
    return Products(config.grid**2 * config.patch_size**2 * 3 * config.hidden_size, 0)


def vit(config: VitConfig) -> Products:
    """One picture."""
    patches, width = config.grid**2, config.hidden_size
    tokens = patches + 1
    layer = attention(tokens, tokens, width, width) + keys_values(tokens, width, width)
    layer += Products(2 * tokens * width * config.intermediate_size, 0)
    layers = config.num_hidden_layers
    return Products(layers * layer.weights, layers * layer.scores) + patch_embedding(config)


def qformer(config: QFormerConfig, queries: int, text: int, image: int) -> tuple[Products, Products]:
    """``queries`` and ``text`` positions over ``image`` tokens: all but the keys and values of the image, and these."""
    width, layers = config.hidden_size, config.num_hidden_layers
    crossing = -(-layers // config.cross_attention_frequency)
    inside = queries + text
    own = attention(inside, inside, width, width) + keys_values(inside, width, width)
    cross = attention(queries, image, width, width)
    dense = 2 * width * config.intermediate_size
    # What the last layer makes of the text is not read.
    weights = layers * own.weights + crossing * cross.weights + dense * (layers * queries + (layers - 1) * text)
    image_side = keys_values(image, config.encoder_hidden_size, width)
    return Products(weights, layers * own.scores + crossing * cross.scores), Products(crossing * image_side.weights, 0)


def language_model(config: T5Config | LlamaConfig | OptConfig, prompt: int, response: int) -> Products:
    """``prompt`` positions (visual and instruction) and ``response`` tokens, the head over the latter."""
    head = Products(response * config.width * config.vocab_size, 0)
    if isinstance(config, T5Config):
        width, inner = config.d_model, config.num_heads * config.d_kv
        dense = 3 * width * config.d_ff
        encoder = attention(prompt, prompt, width, inner) + keys_values(prompt, width, inner)
        encoder += Products(prompt * dense, 0)
        decoder = attention(response, response, width, inner, seen=0.5) + keys_values(response, width, inner)
        decoder += attention(response, prompt, width, inner) + keys_values(prompt, width, inner)
        decoder += Products(response * dense, 0)
        stacks = [(config.num_layers, encoder), (config.num_decoder_layers, decoder)]
    else:
        width, length = config.width, prompt + response
        inner, kv_inner, dense = width, width, 2 * width * mlp_width(config)
        if isinstance(config, LlamaConfig):
            size = config.head_dim or width // config.num_attention_heads
            inner = size * config.num_attention_heads
            kv_inner = size * (config.num_key_value_heads or config.num_attention_heads)
            dense = 3 * width * mlp_width(config)
        layer = attention(length, length, width, inner, seen=0.5) + keys_values(length, width, kv_inner)
        stacks = [(config.num_hidden_layers, layer + Products(length * dense, 0))]
    for count, layer in stacks:
        head += Products(count * layer.weights, count * layer.scores)
    return head


def mlp_width(config: LlamaConfig | OptConfig) -> int:
    """Of a decoder-only model's feed-forward."""
    return config.intermediate_size if isinstance(config, LlamaConfig) else config.ffn_dim


def example(config: InstructBlipConfig, lengths: Lengths, trainable: str = "qformer") -> dict[str, float]:
    """FLOPs of one example in one training step, by part: vit, qformer, projector, llm."""
    trained = {prefix[0] for prefix in TRAINABLE[trainable]}
    deepest = enters_tower(trainable)
    into_image = "vit" in trained
    frames, queries = lengths.frames, config.num_query_tokens
    text = lengths.instruction if config.qformer.use_text and config.instruct_qformer else 0
    tower = vit(config.vision)
    inside, image_side = qformer(config.qformer, queries, text, config.vision.grid**2 + 1)
    words = language_model(config.text, queries * frames + lengths.instruction, lengths.response)
    # Forward, gradient of the input, gradient of the weight: two FLOPs each.
    deep = "qformer" in trained
    seen = 3 * (tower.weights + tower.scores) - patch_embedding(config.vision).weights  # nobody asks for the pixels'
    return {
        "vit": 2 * frames * (seen if deepest else tower.weights + tower.scores),
        "qformer": 2
        * frames
        * ((3 if deep else 1) * (inside.weights + inside.scores) + (1 + deep + into_image) * image_side.weights),
        "projector": 2 * frames * (2 + deep) * queries * config.qformer.hidden_size * config.text.width,
        "llm": 2 * (2 * words.weights + 3 * words.scores),
    }


def batch(config: InstructBlipConfig, shapes: Mapping[str, tuple[int, ...]], trainable: str = "qformer") -> float:
    """FLOPs of a training step over a batch whose arrays (the contract's keys) have these shapes; without the tower's
    where the batch brings its image features."""
    cached = "image_features" in shapes
    text = shapes["input_ids"][1]
    if config.decoder_only:  # both are in one row; a BLIP-2 batch does not say where the response begins
        instruction = shapes.get("qformer_input_ids", (0, 0))[1]
        response = text - instruction
    else:
        instruction, response = text, shapes["labels"][1]
    rows, *images = shapes["image_features" if cached else "pixel_values"]
    frames = images[0] if len(images) == (3 if cached else 4) else 1
    parts = example(config, Lengths(instruction, response, frames), trainable)
    return rows * sum(flops for part, flops in parts.items() if not (cached and part == "vit"))
