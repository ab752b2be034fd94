"""Peak memory of a run on a decoder of the Llama kind, part by part: pure formulas in bytes. Imports no torch.

Each term is what torch keeps: the tensors that transformers' modules save for the backward pass (counted with
`torch.autograd.graph.saved_tensors_hooks`), the optimiser's state, and the temporaries of the loss and of sampling.
"""

from __future__ import annotations

from dataclasses import dataclass

FLOAT, HALF = 4, 2  # bytes
LOGITS = 2**27  # `policies.network.LOGITS_BUDGET`: more are computed in chunks


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder."""

    parameters: int
    trained: int  # of these, or of adapters beside them
    linear: int  # parameters of linear layers, the head among them: those that autocast copies
    hidden: int
    layers: int  # all
    trained_layers: int  # those that the backward pass goes through
    heads: int
    kv_heads: int
    head: int  # size of a head
    inner: int  # of the feed-forward network
    vocabulary: int
    adapters: bool = False


@dataclass(frozen=True)
class Work:
    """What a run does with it, at its largest."""

    half: bool  # weights in bfloat16, trained through float32 masters
    autocast: bool  # bfloat16 matrix products of float32 weights
    checkpointing: bool
    tokens: int  # of the largest micro-batch, padding included
    predicted: int  # response tokens of it
    micro_batches: int  # of a step
    reference: bool = True  # whether the method reads the reference
    entropy: bool = False
    critic: bool = False
    rows: int = 0  # responses that are sampled together
    length: int = 0  # tokens of prompt and response of each

    @property
    def weight(self) -> int:
        """Bytes of a weight."""
        return HALF if self.half else FLOAT

    @property
    def product(self) -> int:
        """Bytes of a number that comes from a matrix product."""
        return HALF if self.half or self.autocast else FLOAT


def weights(shape: Shape, work: Work) -> int:
    """The policy, with adapters and value head."""
    added = shape.trained if shape.adapters else 0
    return work.weight * (shape.parameters + added) + work.critic * FLOAT * (shape.hidden + 1)


def reference(shape: Shape, work: Work) -> int:
    """The frozen copy of what is trained; frozen weights are shared with the policy."""
    return work.weight * shape.trained


def masters(shape: Shape, work: Work) -> int:
    """Float32 copies of bfloat16 weights (Micikevicius et al. 2018, §3.1)."""
    return FLOAT * shape.trained * work.half


def gradients(shape: Shape) -> int:
    """One float32 number for each trained parameter; they stay until the next step begins."""
    return FLOAT * shape.trained


def optimiser(shape: Shape) -> int:
    """AdamW's two moments in float32 (Loshchilov & Hutter 2019, algorithm 2)."""
    return 2 * FLOAT * shape.trained


def layer(shape: Shape, work: Work) -> int:
    """Bytes for each token that one layer saves for its backward pass.

    Two norms (input in float32 and its normalised value), inputs of the linear layers (one for all that share it;
    autocast makes a bfloat16 copy for each), rotated queries and keys, values, output and normaliser of attention, and
    four vectors of the gated feed-forward network (Shazeer 2020).
    """
    d, c = shape.hidden, work.product
    norms = 2 * d * (FLOAT + work.weight)
    inputs = d * c * (5 if work.autocast else 2)
    attention = c * 2 * shape.head * (shape.heads + shape.kv_heads) + FLOAT * shape.heads
    return norms + inputs + attention + 4 * c * shape.inner


def activations(shape: Shape, work: Work) -> int:
    """What the forward pass of a micro-batch keeps, the last norm included; with gradient checkpointing the input of
    every layer, and all of one (Chen et al. 2016)."""
    each, d = layer(shape, work), shape.hidden
    kept = shape.trained_layers * each
    if work.checkpointing:
        kept = shape.trained_layers * d * work.weight + each
    return work.tokens * (kept + d * (FLOAT + work.weight)) + work.predicted * d * work.product


def copies(shape: Shape, work: Work) -> int:
    """Autocast's bfloat16 copies of the weights of linear layers, which the backward pass reads."""
    return HALF * shape.linear * work.autocast


def logits(shape: Shape, work: Work, *, trained: bool = True) -> int:
    """log softmax, its gradient and that of the logits, in float32; without a gradient, logits and log softmax.

    The entropy adds the logits, their exponentials and two gradients.
    """
    each = FLOAT * ((3 + 4 * work.entropy) if trained else 2)
    return each * min(work.predicted * shape.vocabulary, LOGITS)


def passing(shape: Shape, work: Work) -> int:
    """Temporaries of a layer: two vectors of the feed-forward network and two hidden ones for each token."""
    return work.tokens * 2 * (shape.inner * work.product + shape.hidden * FLOAT)


def cache(shape: Shape, work: Work) -> int:
    """Keys and values of the rows that are sampled together; autocast leaves the keys in float32, as rotated."""
    key, value = (FLOAT, HALF) if work.autocast else (work.weight, work.weight)
    return work.rows * work.length * shape.layers * shape.kv_heads * shape.head * (key + value)


def drawing(shape: Shape, work: Work) -> int:
    """Logits of a token of every row, shifted, exponentiated and padded for the inverted CDF."""
    return work.rows * shape.vocabulary * (work.product + 4 * FLOAT)


def stages(shape: Shape, work: Work) -> dict[str, dict[str, int]]:
    """The parts of each stage of a run, in bytes; the stage with the largest sum is the peak."""
    held = {
        "weights": weights(shape, work),
        "reference": reference(shape, work),
        "masters": masters(shape, work),
        "optimiser": optimiser(shape),
    }
    grads, step = gradients(shape), {"activations": activations(shape, work), "logits": logits(shape, work)}
    recomputed = work.checkpointing and work.autocast
    if not recomputed:
        step["bfloat16 copies"] = copies(shape, work)
    last = {"gradients": grads, "activations": passing(shape, work)}
    forward = {"gradients": grads} if work.micro_batches > 1 else {}
    reading = {"gradients": grads, "activations": passing(shape, work), "logits": logits(shape, work, trained=False)}
    found = {
        "first layers of the backward pass": held | last,
        "loss of a micro-batch": held | forward | step,
        "saving": held | {"gradients": grads, "copy of the weights": FLOAT * shape.trained},
    }
    if recomputed:
        kept = {"activations": activations(shape, work), "bfloat16 copies": copies(shape, work)}
        found["forward pass"] = held | forward | kept
    if work.reference:
        found["reading by the reference"] = held | reading
    if work.rows:
        kv = {"KV cache": cache(shape, work), "logits": drawing(shape, work), "bfloat16 copies": copies(shape, work)}
        found["sampling"] = held | {"gradients": grads} | kv
    return {name: {part: n for part, n in parts.items() if n} for name, parts in found.items()}


def peak(shape: Shape, work: Work) -> tuple[str, dict[str, int]]:
    """The stage with the largest sum, and its parts."""
    return max(stages(shape, work).items(), key=lambda item: sum(item[1].values()))
