"""Encodes a user's latest interactions, in their order: what they add to the user's row."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

HOUR = 3_600.0
# Half-lives, in events, of the first and the last sum before training; the others are spaced evenly by ratio.
SHORTEST, LONGEST = 0.5, 64.0
RANK_SLOPE = -0.02  # of the attention's logits before training: older events count slightly less
FADING = -4.0  # before training, softplus(FADING) = 0.018: an event's age hardly counts
NORM_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """Shape of an encoder.

    Attributes:
        length: Number of latest events that are encoded.
        taste: Width of a post's taste vector.
        sums: Number of weighted sums.
        heads: Number of attention heads.
        kinds: Number of kinds of events.
        output: Width of the encoding.
    """

    length: int
    taste: int
    sums: int
    heads: int
    kinds: int
    output: int


class HistoryEncoder(nn.Module):
    """What a user's latest events add to the user's row; exactly zero without events.

    An event is the taste vector of its post times the weight of its kind. With x_r the r-th latest event (r =
    0 for the latest), a_r its age in log(1 + hours), counted back from the latest event:

        m = W_mix [s_1; ..; s_H],   s_h = Σ_r w_hr exp(-f_h a_r) x_r
        q_a = Q_a norm(x_0 + m)
        c = W_c [c_1; ..; c_A],     c_a = Σ_r softmax_r(q_a · x_r / √width + b_ar - g_a a_r) x_r
        z = norm(x_0 + m + c),      encoding = W (norm(z + F(z)))

    The sums have learned weights by rank and age; the attention (Vaswani et al. 2017) is queried once, from
    the latest event. Keys and values are the events themselves: their projections are part of Q_a and W_c,
    so that nothing but the taste vector is needed of a post. F has one hidden layer of twice the width, with
    GELU. W is zero before training.
    """

    def __init__(self, shape: EncoderShape, dropout: float = 0.0) -> None:
        super().__init__()
        self.shape = shape
        width, length = shape.taste, shape.length
        ranks = torch.arange(length)
        lives = torch.logspace(math.log2(SHORTEST), math.log2(LONGEST), shape.sums, 2.0)
        decays = 0.5 ** (ranks / lives[:, None])  # (sums, length)
        self.kind_weights = nn.Parameter(torch.ones(shape.kinds))
        self.rank_weights = nn.Parameter(decays / decays.square().sum(dim=1, keepdim=True).sqrt())
        self.sum_fading = nn.Parameter(torch.full((shape.sums,), FADING))
        self.mix = nn.Linear(shape.sums * width, width)
        self.query_norm = nn.LayerNorm(width, NORM_EPSILON)
        self.query = nn.Linear(width, shape.heads * width)
        self.rank_bias = nn.Parameter(RANK_SLOPE * ranks.float().repeat(shape.heads, 1))
        self.attention_fading = nn.Parameter(torch.full((shape.heads,), FADING))
        self.context = nn.Linear(shape.heads * width, width)
        self.state_norm = nn.LayerNorm(width, NORM_EPSILON)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Dropout(dropout), nn.Linear(2 * width, width)
        )
        self.output_norm = nn.LayerNorm(width, NORM_EPSILON)
        self.output = nn.Linear(width, shape.output, bias=False)
        nn.init.zeros_(self.output.weight)

    def forward(self, taste: Tensor, kinds: Tensor, times: Tensor, queries: int = 1) -> Tensor:
        """Encodings (b, queries, output) of users, each after every one of their `queries` latest events.

        The encoding after an event depends on it and on the `length` - 1 events before it, never on later
        ones. It is zero where the event is absent.

        Args:
            taste: floating (b, n, taste), the posts' taste vectors, latest event last. Users with fewer
                events have absent ones first.
            kinds: int64 (b, n), kinds of the events, -1 for an absent event.
            times: float64 (b, n), seconds since the epoch.
            queries: Number of encodings of each user, at most n.
        """
        shape = self.shape
        count = taste.shape[1]
        present = kinds >= 0
        weights = torch.where(present, self.kind_weights[kinds.clamp(min=0)], 0.0)
        events = taste * weights[..., None].to(taste.dtype)
        latest = events[:, count - queries :]
        # Rank of each event as seen from each query: (queries, n).
        at = torch.arange(count - queries, count, device=taste.device)
        ranks = at[:, None] - torch.arange(count, device=taste.device)
        within = (ranks >= 0) & (ranks < shape.length)
        ranks = ranks.clamp(0, shape.length - 1)
        seen = within & present[:, None]  # (b, queries, n)
        hours = (times[:, count - queries :, None] - times[:, None]).clamp(min=0.0) / HOUR
        ages = torch.log1p(hours).to(taste.dtype)[:, None]  # (b, 1, queries, n)
        fading = functional.softplus(self.sum_fading)[:, None, None]
        by_event = self.rank_weights[:, ranks] * torch.exp(-fading * ages) * seen[:, None]
        mixed = self.mix(_side_by_side(by_event @ events[:, None]))
        base = latest + mixed
        query = self.query(self.query_norm(base)).unflatten(2, (shape.heads, shape.taste)).transpose(1, 2)
        logits = query @ events[:, None].transpose(2, 3) / math.sqrt(shape.taste)
        fading = functional.softplus(self.attention_fading)[:, None, None]
        logits = logits + self.rank_bias[:, ranks] - fading * ages
        # Not minus infinity: all events of an absent query are masked.
        logits = logits.masked_fill(~seen[:, None], torch.finfo(logits.dtype).min)
        attended = self.context(_side_by_side(torch.softmax(logits, dim=-1) @ events[:, None]))
        state = self.state_norm(base + attended)
        state = self.output_norm(state + self.feed_forward(state))
        encoding: Tensor = self.output(state) * present[:, count - queries :, None]
        return encoding


def _side_by_side(parts: Tensor) -> Tensor:
    """Concatenates parts (b, parts, queries, width) to (b, queries, parts · width)."""
    return parts.transpose(1, 2).flatten(2)
