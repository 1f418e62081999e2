"""All coders in one table, in the order in which an encoder asks them: each has to undercut those before it."""

from .classes import Classes
from .coder import Coder
from .mixed import Cm
from .packed import Raw, Zstd
from .windows import Rans

CODERS: tuple[Coder, ...] = (Raw(), Rans(), Classes(), Cm(), Zstd())
BY_ID = {coder.id: coder for coder in CODERS}


def coder_name(number: int) -> str:
    """The name of a coder for people; "?" for one that this version does not know."""
    return BY_ID[number].name if number in BY_ID else "?"


def reference_of(name: str) -> str:
    """Whom to cite for the coder with this name (BibTeX); "" for nobody."""
    return next((coder.reference for coder in CODERS if coder.name == name), "")
