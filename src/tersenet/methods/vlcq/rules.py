"""By which rule every weight gets its step, told by names and shapes.

The exponents and factors are measured: docs/design/0018 has the tables. Without batch norm, rows and columns matter in
transformers and recurrent networks; in LeNets they cost most of the agreement.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from ...core.model import TensorSpec
from .data_free_feedback import POSITIVE, Prior

LONG_KERNEL = 8  # from how many weights on a kernel along one axis is a filter
VOCABULARY = 4096  # from how many rows on an embedding is sorted by how often its rows are used

NORMED = re.compile(r"(^|\.)running_(mean|var)$")
RECURRENT = re.compile(r"(^|[._])(weight_[ih]h|recurrent_kernel|recurrent_weights?)(_l\d+)?(_reverse)?(\.weight)?$")
ATTENTION = re.compile("attn|attention", re.IGNORECASE)
EMBEDDING = re.compile(r"(^|[._])(\w*embed\w*|emb|wte|wpe|shared)(\.weight)?$")
SCORES = re.compile(r"(^|[._])(q|k|query|key|w[qk]|to_[qk]|[qk]_(proj|lin|proj_weight))(\.weight)?$")
VALUES = re.compile(
    r"((^|[._])(v|o|value|w[vo]|to_v|to_out(\.0)?|v_(proj|lin|proj_weight)|o_proj|out_(proj|lin))"
    r"|attention\.output\.dense|attn\.(c_)?proj)(\.weight)?$"
)
ENCODER = re.compile(r"(^|[._])(encoder|token_type_embeddings)[._]")


@dataclass(frozen=True)
class Rule:
    """A step is `common step * unit * spread^tensor * row^rows * column^columns`.

    `row` and `column` are mean magnitudes of weights, `spread` is the deviation of what is left of the tensor once they
    are divided by these powers. Rows of an embedding count `rank^frequency` less towards its end.
    """

    rows: float = 0.0
    columns: float = 0.0
    tensor: float = 0.25
    unit: float = 1.0
    frequency: float = 0.0
    prior: Prior = POSITIVE


EVEN = Rule()  # of networks with batch norm, and of those that neither attend nor recur, but for recurrent weights
FILTER = Prior(kernel=4.0, decay=0.9, mean=0.0)  # signals have no mean, and neighbours that look alike
PLAIN = Rule(rows=0.5, columns=0.5, tensor=1.0)
OF_SCORES = replace(PLAIN, unit=1.25)
OF_VALUES = replace(PLAIN, unit=0.75)
EMBEDDED = replace(PLAIN, prior=Prior(0.0, 1.0, 0.0))
WORDS = replace(EMBEDDED, frequency=0.2)
FREE_WORDS = replace(WORDS, unit=2.2)
RECURRING = Rule(rows=1.0, columns=0.5, tensor=1.0)
FIRST_RECURRING = Rule(rows=1.0, columns=1.0, tensor=1.0, unit=0.5)


def rules(specs: Mapping[str, TensorSpec], aliases: Mapping[str, str], wanted: Collection[str]) -> dict[str, Rule]:
    """The rule of every tensor in `wanted`, of a checkpoint that has `specs` and `aliases`."""
    recurrent = any(RECURRENT.search(name) for name in wanted)
    attends = any(ATTENTION.search(name) for name in specs)
    even = any(NORMED.search(name) for name in specs) or not (recurrent or attends)
    return {name: _rule(name, specs, aliases, even, recurrent) for name in wanted}


def _rule(name: str, specs: Mapping[str, TensorSpec], aliases: Mapping[str, str], even: bool, recurrent: bool) -> Rule:
    shape = specs[name].shape
    if RECURRENT.search(name):
        return FIRST_RECURRING if re.search(r"weight_ih(_l0)?(_reverse)?$", name) else RECURRING
    kernel = shape[2:].numel()
    prior = FILTER if kernel >= LONG_KERNEL and max(shape[2:]) == kernel else POSITIVE
    if even:
        return replace(EVEN, prior=prior)
    if len(shape) == 2 and EMBEDDING.search(name):
        if shape[0] < VOCABULARY:
            return EMBEDDED
        return FREE_WORDS if _is_free(name, specs, aliases) else WORDS
    if recurrent:
        return RECURRING
    plain = OF_SCORES if SCORES.search(name) else OF_VALUES if VALUES.search(name) else PLAIN
    return replace(plain, prior=prior)


def _is_free(name: str, specs: Mapping[str, TensorSpec], aliases: Mapping[str, str]) -> bool:
    """Whether an embedding of words is no head as well: it has no tied name, and either there is a head of its own or
    the network is an encoder."""
    shape = specs[name].shape
    if name in aliases.values():
        return False
    own = any(spec.shape[:1] == shape[:1] and len(spec.shape) == 2 for other, spec in specs.items() if other != name)
    return own or any(ENCODER.search(other) for other in specs)
