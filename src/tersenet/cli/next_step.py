"""What a first-time user can type next after an error: a command for each kind of mistake."""

import re

PAGE = "docs/tutorials/2-network-and-data.md"
OWN = f"--model my.py:make --task my.py:make_task ({PAGE} has both functions)"
STEPS = {  # the message, in the words of the command line -> what to type, with the groups of the pattern
    r"(\S+) is no \.terse file": "tersenet compress {0} -o FILE.terse  if it is a checkpoint",
    r"(\S+\.terse) cannot be read: No such file": "tersenet compress CHECKPOINT -o {0}",
    r"no method '": "tersenet methods",
    r"^(\S+) has no option '": "tersenet methods {0}",
    r"the network's code \(--model\)|no reference network '|no task '|there is no file \S+\.py$": OWN,
    r"no such file or folder|or no checkpoint \(|not a readable safetensors": "tersenet demo  for a file that works",
    r"nothing to reproduce called": "tersenet reproduce list",
}


def next_step(message: str) -> str:
    """`; try  COMMAND` for a message that the user can do something about, else nothing.

    >>> next_step("no method 'lqs'; the methods are lsq, rtn")
    '; try  tersenet methods'
    """
    for pattern, command in STEPS.items():
        if found := re.search(pattern, message):
            return f"; try  {command.format(*found.groups())}"
    return ""
