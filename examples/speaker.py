"""A speaker encoder of LSTMs: 160 mel frames to a unit embedding, judged by cosine, without labels.

tersenet eval small.terse --against encoder.pt --model examples/speaker.py:network --task examples/speaker.py:task
"""  # speech is speech.npz in $TERSENET_DATA

import os

import numpy as np
import torch
from torch import nn

from tersenet import Task

SPEECH = os.environ.get("TERSENET_DATA", ".") + "/speech.npz"


class network(nn.Module):
    """Resemblyzer's encoder: frames `[n, 160, 40]` to unit embeddings `[n, 256]`."""

    def __init__(self):
        super().__init__()
        self.lstm, self.linear, self.relu = nn.LSTM(40, 256, 3, batch_first=True), nn.Linear(256, 256), nn.ReLU()

    def forward(self, frames):
        return nn.functional.normalize(self.relu(self.linear(self.lstm(frames)[1][0][-1])))


def task(speech=SPEECH, n=64):
    """Voices 0 to 3 to calibrate on and train on, 4 and 5 to choose by, 6 and 7 to judge on."""
    mels, parts = np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 42), {0: [], 4: [], 6: []}
    ends = np.where(mels < 15, mels * 200 / 3, 1000 * np.exp((mels - 15) * np.log(6.4) / 27))[:, None]
    up = (np.linspace(0, 8000, 201) - ends[:-1]) / np.diff(ends, axis=0)  # how far from each end to the next
    bank = torch.tensor(np.minimum(up[:-1], 1 - up[1:]).clip(0) * 2 / (ends[2:] - ends[:-2])).float()
    for name, clip in np.load(speech).items():
        wave = torch.tensor(clip.astype(np.float32))
        wave = wave * (10 ** (-30 / 20) / wave.square().mean().sqrt())
        power = torch.stft(wave, 400, 160, window=torch.hann_window(400), return_complex=True).abs().square()
        parts[max(k for k in parts if k <= int(name[0]))] += (bank @ power).T.unfold(0, 160, 80).mT
    seen, chosen, test = (torch.stack(found[:n]).split(16) for found in parts.values())
    return Task(test, chosen, seen, seen, agreement="cosine")
