"""PyTorch: nn.Embedding, nn.RNN or nn.LSTM, nn.Linear.

Options: adam=fused or default, rows=packed or padded, threads=1 or 2. Packed rows skip padding, as
the lesson's masked models do; padded ones are another model where the lesson masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from minirnn.bench.lessons import CLASSES, VOCABULARY, Lesson


def describe() -> str:
    return f"PyTorch {torch.__version__}"


class Peer:
    def __init__(
        self, lesson: Lesson, adam: str = "fused", rows: str = "padded", threads: str = "1"
    ) -> None:
        torch.set_num_threads(int(threads))
        torch.manual_seed(1)
        self.packed = rows == "packed"
        self.model = Model(lesson)
        options = {"fused": True} if adam == "fused" else {}
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, eps=1e-7, **options)
        self.loss = nn.CrossEntropyLoss()

    def prepare(self, x: np.ndarray, y: np.ndarray | None) -> Any:
        lengths = torch.from_numpy((x != 0).sum(axis=1)).clamp(min=1) if self.packed else None
        labels = None if y is None else torch.from_numpy(y).long()
        return torch.from_numpy(x).long(), lengths, labels

    def train(self, batch: Any) -> float:
        x, lengths, y = batch
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.model(x, lengths), y)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    def infer(self, batch: Any) -> np.ndarray:
        with torch.inference_mode():
            return torch.softmax(self.model(batch[0], batch[1]), dim=1).numpy()


class Model(nn.Module):
    def __init__(self, lesson: Lesson) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, lesson.features)
        kind = nn.LSTM if lesson.cell == "lstm" else nn.RNN
        self.recurrent = kind(
            lesson.features,
            lesson.units,
            num_layers=lesson.layers,
            bidirectional=lesson.bidirectional,
            batch_first=True,
        )
        self.directions = lesson.directions
        self.head = nn.Linear(lesson.units * self.directions, CLASSES)

    def forward(self, ids: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
        x = self.embedding(ids)
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        state = self.recurrent(x)[1]
        h = state[0] if isinstance(state, tuple) else state
        return self.head(torch.cat(tuple(h[-self.directions :]), dim=1))
