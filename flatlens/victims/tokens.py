"""`TokenVictim`: a causal language model made ready. The user's own model, never a copy of it, and left as it was.

``x`` is the slot's embeddings ``[n, S, d]``, always a float leaf; where the slot is text its ``tokens [n, S]`` ride
beside. A pass returns the logits ``[n, T, V]`` at the T positions that predict the target; the loss is their mean.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from flatlens.errors import ModelError, one_line
from flatlens.models.guard import Where
from flatlens.victims.encoding import Encoding, allowed, text_of
from flatlens.victims.language_parts import Parts, demand_room, parts_of
from flatlens.victims.layers import HEAD, Layer, describe
from flatlens.victims.protocol import Forward, Needs
from flatlens.victims.taps import Tap

LOGITS = 64 << 20
"""Bytes of logits that are held at once, at most."""
UNCACHED = "uncached"
"""The code of the caution that the prefix is computed anew at each pass."""


class TokenVictim:
    """A language model at one prompt.

    Args:
        model: causal, of transformers, in eval mode, in float32, float64 or bfloat16.
        encoding: the prompt's tokens.
        chunk: candidates that are evaluated together, at most.
        cached: whether the prefix is computed once; None tries whether that gives the same features.
        parts: of the model, where they are known.
        writable: which tokens an attack may write, ``[V]`` bool; all printable text when left out.

    Raises:
        ModelError: the model cannot be attacked: its logits are not its head's output at the last hidden states, or it
            has no room for the prompt.

    Attributes:
        cached: whether the prefix is computed once.
        difference: the largest difference of features with the prefix cached, relative to the largest feature.
    """

    def __init__(
        self,
        model: Any,
        encoding: Encoding,
        *,
        chunk: int = 32,
        cached: bool | None = None,
        parts: Parts | None = None,
        writable: Tensor | None = None,
    ) -> None:
        self.parts: Parts = parts_of(model) if parts is None else parts
        self.model = model
        self.encoding: Encoding = encoding
        self.chunk: int = chunk
        self.where: Where = Where()
        weight = self.parts.head.weight
        self.device: torch.device = weight.device
        self.dtype: torch.dtype = weight.dtype
        self.classes: int = weight.shape[0]
        found = allowed(encoding.tokenizer, self.classes) if writable is None else writable
        self.writable: Tensor = found.to(self.device)
        self.bounds: tuple[float, float] = (-torch.inf, torch.inf)
        self.head: str | None = HEAD
        self.layers: Mapping[str, Layer] = {
            HEAD: describe(HEAD, self.parts.name, self.parts.head, self.parts.head.weight.detach(), None)
        }
        self.target: Tensor = self._ids(encoding.target)
        self._tail = self._ids((*encoding.tail, *encoding.target[:-1]))
        demand_room(model, encoding, self.classes)
        self._prefix = self._ids(encoding.prefix)
        self._cache: list[tuple[Tensor, Tensor]] | None = None
        self._last_of_prefix: Tensor | None = None
        self.cached, self.difference = False, 0.0
        self._check()
        if encoding.prefix and cached is not False:
            self._try_cache(demanded=bool(cached))

    def _ids(self, ids: tuple[int, ...]) -> Tensor:
        return torch.tensor(ids, dtype=torch.long, device=self.device).unsqueeze(0)

    # ---- what it is made of -----------------------------------------------------------------------

    def at(self, encoding: Encoding) -> TokenVictim:
        """The same model at another prompt. Short texts are not worth a cache of their own."""
        other = TokenVictim(
            self.model, encoding, chunk=self.chunk, cached=False, parts=self.parts, writable=self.writable
        )
        other.where = self.where
        return other

    def needing(self, needs: Needs) -> TokenVictim:
        """Itself: the head needs no more than a pass has."""
        return self

    def place(self, x: Tensor) -> Tensor:
        """``x`` on the victim's device, in its dtype."""
        return x.to(self.device, self.dtype)

    def start(self) -> Int[Tensor, "1 s"]:
        """The slot's tokens as it begins."""
        return self._ids(self.encoding.slot)

    def embed(self, tokens: Int[Tensor, "n s"]) -> Float[Tensor, "n s d"]:
        """Embeddings of tokens, as the model itself looks them up."""
        with torch.no_grad():
            found: Tensor = self.parts.embed(tokens.to(self.device))
        return found

    def row_norm(self) -> float:
        """The mean norm of the embedding's rows, scaled as the model scales them: the unit of step sizes and balls."""
        return self.parts.row_norm

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The model frozen meanwhile: nothing of the graph is kept for its weights. Afterwards it is as it was."""
        asked = [p for p in self.model.parameters() if p.requires_grad]
        try:
            for parameter in asked:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter in asked:
                parameter.requires_grad_(True)

    # ---- passes -----------------------------------------------------------------------------------

    def __call__(self, x: Tensor, y: Tensor | None = None, *, final: bool = False) -> Forward:
        """One pass.

        Args:
            x: the slot: its tokens ``[n, S]``, whole numbers, or its embeddings ``[n, S, d]``.
            y: the target ``[n, T]``; the prompt's own when left out.
            final: no gradient by the slot will be asked for.
        """
        tokens = None if x.is_floating_point() else x.to(self.device)
        point = (self.embed(x) if tokens is not None else self.place(x)).detach().clone()
        y = self.target.expand(len(point), -1) if y is None else y.to(self.device)
        self.where.passes += 1
        with self.where.watched(), torch.set_grad_enabled(not final):
            point.requires_grad_(not final)
            features, states = self._states(point)
            logits = self.parts.head(features)
        self.where.dtype = self.where.dtype or logits.dtype
        tap = Tap(self.layers[HEAD], features.detach(), features._version, None, logits.shape)
        here = Forward(point, y, logits, {HEAD: tap}, self.where, tokens=tokens)
        here.states, here.encoding = states, self.encoding
        return here

    def one_hot(self, tokens: Int[Tensor, "n s"]) -> Float[Tensor, "n s v"]:
        """Weights of tokens, all of it on one token at each place; in float32 at least, so that they add up to 1."""
        return F.one_hot(tokens.to(self.device), self.classes).to(torch.promote_types(self.dtype, torch.float32))

    def mixed(
        self, weights: Float[Tensor, "n s v"], y: Tensor | None = None, *, tokens: Tensor | None = None,
        final: bool = False,
    ) -> Forward:  # fmt: skip
        """One pass at a slot that mixes tokens: at each place the weighted mean of the embedding's rows.

        Args:
            weights: of the tokens, at least 0 and 1 in all at each place.
            y: as for a pass.
            tokens: those of the slot, where it is text.
            final: as for a pass.
        """
        # The weights are not on the graph: `by_token` takes the gradient by the mean to that by them.
        weights = weights.detach().to(self.device)
        mean = self.parts.scale * (self.place(weights) @ self.parts.weight) if tokens is None else tokens
        here = self(mean, y, final=final)
        here.weights = weights
        return here

    def losses(self, tokens: Int[Tensor, "m s"]) -> Float[Tensor, " m"]:
        """The loss at each of many slots, in nats; no graph, and never more than 64 MiB of logits at once."""
        length = self.target.shape[1]
        fitting = LOGITS // (length * self.classes * self.dtype.itemsize)
        size, out = max(1, min(self.chunk, fitting)), []
        with self.where.watched(), torch.no_grad():
            for part in tokens.to(self.device).split(size):
                logits = self.parts.head(self._features(self.embed(part)))
                y = self.target.expand(len(part), -1)
                out.append(
                    F.cross_entropy(logits.flatten(0, 1).float(), y.flatten(), reduction="none").view_as(y).mean(1)
                )
        return torch.cat(out)

    def by_token(self, gradient: Float[Tensor, "n s d"]) -> Float[Tensor, "n s v"]:
        """The gradient by a one-hot choice of each of the slot's tokens, ⟨gradient, row⟩; no one-hot is made."""
        flat = gradient.flatten(0, 1)
        # Few rows: the product with the weight on the left is twice as fast.
        found: Tensor = self.parts.scale * (self.parts.weight @ flat.T).T
        return found.unflatten(0, gradient.shape[:2])

    def nearest(self, x: Float[Tensor, "n s d"]) -> tuple[Int[Tensor, "n s"], Float[Tensor, "n s"]]:
        """The token whose row is nearest to each of the slot's vectors, and its distance in mean row norms."""
        weight, flat = self.parts.weight, x.detach().flatten(0, 1) / self.parts.scale
        # ‖w‖² − 2⟨w, x⟩ orders the rows; the nearest one's distance itself is taken without cancellation.
        order = self.parts.row_squares - 2 * (weight @ flat.T).T
        ids = order.argmin(1)
        distance = (flat - weight[ids]).norm(dim=1) * self.parts.scale / self.row_norm()
        return ids.view(x.shape[:2]), distance.view(x.shape[:2])

    def slot_nll(self, here: Forward) -> float:
        """The mean negative log-likelihood of the slot's own tokens, in nats: how unlikely the text is to the model.

        It is read off the pass, at one prompt, with the head alone. NaN where nothing stands before the slot.
        """
        assert here.tokens is not None and here.states is not None
        with self.where.watched(), torch.no_grad():
            states, ids = here.states.detach()[:, :-1], here.tokens
            if self.encoding.prefix:
                states = torch.cat([self._prefix_state(), states], 1)
            else:
                ids = ids[:, 1:]
            if not ids.shape[1]:
                return float("nan")
            head = self.parts.head
            logits = (head.weight @ states.flatten(0, 1).T).T
            if head.bias is not None:
                logits = logits + head.bias
        return float(F.cross_entropy(logits.float(), ids.flatten()))

    def _prefix_state(self) -> Float[Tensor, "1 1 d"]:
        """The head's input at the last token before the slot, which never changes."""
        if self._last_of_prefix is None:
            self._last_of_prefix = self._hidden(inputs_embeds=self.parts.embed(self._prefix))[:, -1:]
        return self._last_of_prefix

    def whole(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n l d"]:
        """The embeddings of all positions that the target's are predicted from: prefix, slot, tail and target."""
        with torch.no_grad():
            before = self.parts.embed(self._prefix).expand(len(x), -1, -1)
            return torch.cat([before, self.place(x), self.parts.embed(self._tail).expand(len(x), -1, -1)], 1)

    def everywhere(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n l d"]:
        """The head's inputs at all positions, the prompt's included, for the averaging of the paper's own code."""
        with self.where.watched(), torch.no_grad():
            before = self.parts.embed(self._prefix).expand(len(x), -1, -1)
            behind = self.parts.embed(self._ids((*self.encoding.tail, *self.encoding.target))).expand(len(x), -1, -1)
            return self._hidden(inputs_embeds=torch.cat([before, self.place(x), behind], 1))

    def generate(self, tokens: Int[Tensor, "1 s"], count: int) -> list[int]:
        """What the user's own model says next, greedily, after the whole prompt's text was tokenised again.

        Args:
            tokens: the slot's.
            count: of tokens to generate.
        """
        tokenizer, encoding = self.encoding.tokenizer, self.encoding
        text = text_of(tokenizer, [*encoding.prefix, *tokens[0].tolist(), *encoding.tail])
        ids = self._ids(tuple(tokenizer(text, add_special_tokens=False)["input_ids"]))
        with self.where.watched(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = copy.deepcopy(self.model.generation_config)
            config.do_sample, config.max_length = False, None
            for key in ("temperature", "top_p", "top_k"):
                setattr(config, key, None)
            config.max_new_tokens, config.num_beams = count, 1
            pad = self.model.generation_config.pad_token_id
            config.pad_token_id = 0 if pad is None else pad
            out = self.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
        return [int(i) for i in out[0, ids.shape[1] :]]

    def says(self, x: Float[Tensor, "n s d"]) -> Int[Tensor, "n t"]:
        """What greedy decoding from embeddings gives: T tokens, each predicted from those before, without any cache."""
        with self.where.watched(), torch.no_grad():
            length, said = self.target.shape[1], self._ids(()).expand(len(x), -1)
            before = self.parts.embed(self._prefix).expand(len(x), -1, -1)
            tail = self.parts.embed(self._ids(self.encoding.tail)).expand(len(x), -1, -1)
            fixed = torch.cat([before, self.place(x), tail], 1)
            for _ in range(length):
                hidden = self._hidden(inputs_embeds=torch.cat([fixed, self.parts.embed(said)], 1))
                said = torch.cat([said, self.parts.head(hidden[:, -1:]).argmax(-1)], 1)
        return said

    def _features(self, x: Float[Tensor, "n s d"]) -> Float[Tensor, "n t d"]:
        """The head's inputs at the positions that predict the target."""
        return self._states(x)[0]

    def _states(self, x: Float[Tensor, "n s d"]) -> tuple[Float[Tensor, "n t d"], Float[Tensor, "n s d"]]:
        """The head's inputs at the positions that predict the target, and at the slot."""
        behind = self.parts.embed(self._tail).expand(len(x), -1, -1)
        if self._cache is None:
            before = self.parts.embed(self._prefix).expand(len(x), -1, -1)
            hidden = self._hidden(inputs_embeds=torch.cat([before, x, behind], 1))[:, before.shape[1] :]
        else:
            hidden = self._hidden(inputs_embeds=torch.cat([x, behind], 1), past_key_values=self._past(len(x)))
        return hidden[:, -self.target.shape[1] :], hidden[:, : x.shape[1]]

    def _hidden(self, **given: Any) -> Tensor:
        found: Tensor = self.parts.body(**given, use_cache=given.get("past_key_values") is not None).last_hidden_state
        return found

    # ---- the prefix, computed once ----------------------------------------------------------------

    def _past(self, n: int) -> Any:
        """Keys and values of the prefix for ``n`` slots, in a cache of their own: a pass writes into it."""
        from transformers import DynamicCache

        assert self._cache is not None
        return DynamicCache(ddp_cache_data=[(k.expand(n, -1, -1, -1), v.expand(n, -1, -1, -1)) for k, v in self._cache])

    def _try_cache(self, *, demanded: bool) -> None:
        """Compute the prefix once, if features are then the same by value; else at each pass."""
        start = self.embed(self.start())
        # Two unlike slots: some kernels differ with the number of rows.
        slots = torch.cat([start, start.flip(1) * 0.5])
        with torch.no_grad():
            plain = self._features(slots)
            try:
                self._cache = self._keys()
                kept = self._features(slots) if self._cache else plain * torch.nan
            except Exception as error:  # a cache of another kind raises what its author chose
                self._cache = None
                if demanded:
                    raise ModelError(f"the prefix cannot be cached: {one_line(error)}") from error
                return
        self.difference = float((kept - plain).abs().max() / plain.abs().max())
        self.cached = self.difference <= _tolerance(self.dtype)
        if not self.cached:
            self._cache = None

    def _keys(self) -> list[tuple[Tensor, Tensor]] | None:
        from transformers import DynamicCache

        cache = DynamicCache()
        self.parts.body(inputs_embeds=self.parts.embed(self._prefix), past_key_values=cache, use_cache=True)
        found = []
        for layer in cache.layers:
            keys, values = getattr(layer, "keys", None), getattr(layer, "values", None)
            if not isinstance(keys, Tensor) or not isinstance(values, Tensor) or keys.shape[2] != self._prefix.shape[1]:
                return None  # a window, or a state: not all of the prefix is there
            found.append((keys, values))
        return found or None

    def _check(self) -> None:
        """That tokens and embeddings give the same logits, that these are the head's, and that a pass repeats."""
        ids = torch.cat([self._prefix, self.start(), self._tail], 1)
        with torch.no_grad():
            whole = self.model(input_ids=ids, use_cache=False).logits[:, -self.target.shape[1] :]
            here = self(self.start(), final=True).logits
            again = self(self.start(), final=True).logits
        config = getattr(self.model.config, "text_config", None) or self.model.config
        if getattr(config, "final_logit_softcapping", None):
            raise ModelError(
                f"the model caps its logits (final_logit_softcapping = {config.final_logit_softcapping:g}), and its "
                "head's curvature is not that of a linear layer"
            )
        if here.shape != whole.shape:
            raise ModelError(
                f"the model returns logits {tuple(whole.shape)}, its head {tuple(here.shape)}; it cannot be probed"
            )
        if torch.isfinite(whole).all():
            size = float(whole.abs().max())
            worst = float((here.double() - whole.double()).abs().max())
            if worst > 1e3 * torch.finfo(self.dtype).eps * max(size, 1.0):
                raise ModelError(
                    f"the model's logits differ from its head's W·h by up to {worst:.2g}: it scales or caps them, and "
                    "its head's curvature is not that of a linear layer"
                )
            if not torch.equal(here, again):
                raise ModelError("the model is random: two passes over the same prompt differ; call model.eval()")
        self.where.passes = 0


def _tolerance(dtype: torch.dtype) -> float:
    return {torch.float64: 1e-10, torch.float32: 1e-4}.get(dtype, 2e-2)
