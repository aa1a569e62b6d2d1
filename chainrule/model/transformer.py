"""f_θ and φ_θ: one Transformer, described by one flat config. Knows tokens, not text, nor whose weights it holds.

Shapes: B sequences, T positions, N of these, D width, V vocabulary.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from chainrule.errors import ChainruleError
from chainrule.model.attention import attention_contexts, token_positions
from chainrule.model.batch_cache import Cache
from chainrule.model.chunked_loss import Logits, chunked_cross_entropy, positions_at_once
from chainrule.model.config import Config
from chainrule.model.kernels import linear_cross_entropy, plain_cpu
from chainrule.model.layers import Block, Embedding, HeadLayer, MaskedHead, Norm
from chainrule.model.linear import Linear
from chainrule.model.native.forward import NativeForward
from chainrule.model.native.products import multiply

Output = Literal["logits", "features", "summary", "next logits"]


class Transformer(nn.Module):
    """f_θ: tokens x_1..x_T to logits u_1..u_T; `features` is φ_θ, the representation the logits are read from.

    Its weights are undefined until `initialise` draws them or those of a directory are loaded.
    Parameters keep the precision they have; activations have `compute_dtype`, that of the parameters unless it is set.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype: torch.dtype | None = None
        # Keep a block's input alone for the backward pass, which computes the rest again; None: where memory runs out.
        self.checkpoint_activations: bool | None = None
        self.segment_separator: int | None = None  # the token after which a pair's second text begins; None: no pairs
        self.embedding = Embedding(config.vocabulary_size, config.width)  # [e_1 … e_V]
        rows = config.position_offset + config.context
        self.position_embedding = Embedding(rows, config.width) if config.learned_positions else None
        self.segment_embedding = Embedding(config.segments, config.width) if config.segments else None
        self.input_norm = Norm(config, config.width) if config.residual == "post" or config.input_norm else None
        self.blocks = nn.ModuleList(Block(config, layer > 0 or config.first_norm) for layer in range(config.layers))
        self.norm = None if config.residual == "post" else Norm(config, config.width)
        self.head = MaskedHead(config) if config.masked_head else None
        self.pooler: HeadLayer | Linear | None = None
        if config.pooler:
            self.pooler = HeadLayer(config) if config.pooler_like_head else Linear(config.width, config.width)
        self.native = NativeForward()
        self.output = None if config.tied else Linear(config.width, config.vocabulary_size, bias=False)

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where tokens must be."""
        return self.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the weights; activations have `compute_dtype` where that is set."""
        return self.embedding.dtype

    @property
    def output_weight(self) -> Tensor:
        """(V, D): u_t = output_weight · c_t. ModelError for a model without a language-model head."""
        self.config.check_language_head()
        return self.embedding.weight if self.output is None else self.output.weight

    def forward(
        self,
        tokens: Tensor | None = None,
        *,
        targets: Tensor | None = None,
        features: Tensor | None = None,
        output: Output = "logits",
        cache: Cache | None = None,
        last: Tensor | None = None,
        output_positions: Tensor | None = None,
    ) -> Tensor:
        """f_θ: tokens (B, T) to logits (B, T, V), or to another output. All uses of the model enter here, so that hooks
        on `forward` (sharded weights, for one) see every use.

        `targets`, integers of the logits' shape without V: return the loss instead, the mean of -log softmax(u)[target]
        in nats (14.8), a scalar in float32. `features` (…, D) instead of tokens: compute the logits, or the loss, of
        these. `output`: "features" are the final hidden states (B, T, D), "summary" is what a classifier reads (B, D).
        "next logits", of `features`, are the logits by functions that are fast for the few rows of a step of decoding.

        `cache`: the tokens follow those it holds, and are added to it. `last` (B,): the position of each sequence's
        last token, where padding follows it; in a causal model it is needed for "summary", and in one with an original
        context (see Config).
        `output_positions` (B, N): compute the output at these positions only, (B, N, …).

        Raises ChainruleError for more tokens than the context, a cache of a model that is not causal, and logits of one
        without a language-model head.
        """
        if features is None:
            assert tokens is not None, "forward takes tokens or features"
            if output == "summary":
                return self._summary(tokens, last)
            features = self._features(tokens, cache, last, output_positions)
        if output == "features":
            return features
        if targets is None:
            return self._logits(features, few=output == "next logits")
        return self._loss(features.flatten(0, -2), targets.flatten())

    # `forward` with one output each, for those who hold a Transformer itself, not a wrapper of it.

    def features(self, tokens: Tensor, cache: Cache | None = None, output_positions: Tensor | None = None) -> Tensor:
        """φ_θ: tokens (B, T) to the final hidden states (B, T, D), or (B, N, D) at `output_positions`."""
        return self(tokens, output="features", cache=cache, output_positions=output_positions)

    def summary(self, tokens: Tensor, last: Tensor) -> Tensor:
        """c: what a linear head reads of each of the sequences (B, T), which end at `last` (B,); (B, D)."""
        return self(tokens, output="summary", last=last)

    def logits(self, features: Tensor) -> Tensor:
        """u = output_weight · φ, (…, D) to (…, V)."""
        return self(features=features)

    def next_logits(self, features: Tensor) -> Tensor:
        """The same, (B, D) to (B, V), for a step of decoding."""
        return self(features=features, output="next logits")

    def _features(
        self, tokens: Tensor, cache: Cache | None, last: Tensor | None, output_positions: Tensor | None
    ) -> Tensor:
        T = tokens.shape[1]
        length = T if cache is None else cache.length_after(T)
        if length > self.config.context:
            raise ChainruleError(
                f"model: wanted at most {self.config.context} tokens (its context), got {length}; shorten the text"
            )
        if cache is not None and not self.config.causal:
            raise ChainruleError(
                "model: wanted a causal model, got one in which every token sees those after it;"
                " it fills blanks and cannot go on from a text"
            )
        dtype = self.compute_dtype or self.dtype
        x = self.embedding(tokens)  # (B, T, D)
        if self.config.scaled_embedding:
            # rounded to the precision of x, as others have it; filled on the device, which is not waited for
            x = x * torch.full((), self.config.width**0.5, dtype=x.dtype, device=x.device)
        if self.config.embedding_factor != 1:
            x = x * self.config.embedding_factor
        x = x.to(dtype)
        if self.position_embedding is not None:
            positions = token_positions(T, cache, self.device)
            x = x + self.position_embedding(positions + self.config.position_offset).to(dtype)
        if self.segment_embedding is not None:
            x = x + self._segments(self.segment_embedding, tokens).to(dtype)
        if self.input_norm is not None:
            x = self.input_norm(x)
        decoded = self.native(self, x, cache) if output_positions is None else None
        if decoded is not None and cache is not None:
            cache.length += T
            return decoded
        contexts = attention_contexts(self.config, T, cache, last, self.device, dtype)
        for layer, block in enumerate(self.blocks):
            context = contexts[layer % len(contexts)]
            if output_positions is not None and layer + 1 == len(self.blocks):
                context = context.at_positions(output_positions, T)  # earlier layers give all positions their keys
            if self.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(block, x, context, cache, layer, use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, context, cache, layer)
        if cache is not None:
            cache.length += T
        return x if self.norm is None else self.norm(x)

    def _segments(self, embedding: Embedding, tokens: Tensor) -> Tensor:
        """The first segment's embedding (D,), or (B, T, D): what follows a separator has the second's."""
        if self.segment_separator is None:
            return embedding.weight[0]
        separators = (tokens == self.segment_separator).long()
        return embedding((separators.cumsum(1) - separators).clamp(max=1))

    def _summary(self, tokens: Tensor, last: Tensor | None) -> Tensor:
        """(B, D): the last position of a causal model; of another the first, or the mean of all, through its pooler
        where it has one."""
        assert last is not None, "a summary needs each sequence's last position"
        if self.config.summary == "mean":
            real = (torch.arange(tokens.shape[1], device=last.device) <= last[:, None])[..., None]
            features = self._features(tokens, None, last, None)
            features = (features * real).sum(1) / real.sum(1)
        else:
            read = last if self.config.causal else torch.zeros_like(last)
            features = self._features(tokens, None, last, read[:, None])[:, 0]
        if self.pooler is None or isinstance(self.pooler, HeadLayer):
            return features if self.pooler is None else self.pooler(features)
        activation = torch.tanh if self.config.pooler_activation == "tanh" else torch.relu
        return activation(self.pooler(features))

    def _logits(self, features: Tensor, few: bool = False) -> Tensor:
        """u = output_weight · φ, (…, D) to (…, V); a masked head stands between, a divisor and a cap may follow."""
        self.config.check_language_head()
        if self.head is None:
            logits = self._output(features, None, few)
            if self.config.logit_divisor != 1:
                logits = logits / self.config.logit_divisor
            cap = self.config.logit_cap
            return logits if cap is None else cap * torch.tanh(logits / cap)
        return self._output(self.head(features), self.head.bias.to(features.dtype), few)

    def _loss(self, features: Tensor, targets: Tensor) -> Tensor:
        """14.8 of hidden states (N, D) and targets (N,); up to two chunks of logits are all in memory at once."""
        if self.output is not None and type(self.output) is not Linear:
            return F.cross_entropy(self._logits(features).float(), targets)
        at_once = positions_at_once(self.config.vocabulary_size, features.device)
        cpu = plain_cpu(features)
        if len(features) > 2 * at_once or not (cpu or torch.compiler.is_compiling()):
            bias, weight = None if self.head is None else self.head.bias, self.output_weight
            features = features if self.head is None else self.head(features)
            logits = Logits(self.config.logit_divisor, self.config.logit_cap)
            return chunked_cross_entropy(features, weight, targets, bias, logits, at_once)
        linear = self.head is None and self.config.logit_divisor == 1 and self.config.logit_cap is None
        if linear and cpu:
            return linear_cross_entropy(features, self.output_weight.to(features.dtype), targets)
        return F.cross_entropy(self._logits(features).float(), targets)

    def _output(self, features: Tensor, bias: Tensor | None, few: bool) -> Tensor:
        if self.output is None:
            return self.embedding.logits(features, bias, few)
        if few and type(self.output) is Linear:
            return multiply(features, self.output.weight, bias, few=True, packing=self.output.packing)
        logits = self.output(features)
        return logits if bias is None else logits + bias


def initialise(model: Transformer, seed: int) -> None:
    """Random weights drawn from `seed`. Branches that no norm follows begin at 0, and so does an untied output.

    The loss is then log V: exactly where the output is untied, nearly where it is tied.
    """
    generator, config = torch.Generator().manual_seed(seed), model.config
    # Where a norm follows the branch, its gradient at 0 would be huge.
    branches = () if config.residual in ("reordered", "sandwich") else (".attention.output.weight", ".mlp.down.weight")
    for name, parameter in model.named_parameters():
        if name.endswith(("bias", *branches)) or name == "output.weight":
            nn.init.zeros_(parameter)
        elif parameter.ndim < 2:
            nn.init.constant_(parameter, 1 - config.norm_offset)  # gains of 1
        elif "embedding" in name:
            nn.init.normal_(parameter, std=0.02 if config.tied else 1.0, generator=generator)
        else:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5, generator=generator)
