"""What a merge says to one's own texts, which texts it breaks, and which adapter is to blame; plain frames out."""

from .answers import predictions  # fmt: skip
from .blame import leave_one_out, loudness, up_to_layer
from .questions import Question, question_of
from .rows import Outcome, changed_rows, confusion, mcnemar, outcome
from .scales import flips, over_scaling
from .weights import Weights, weights_by_task, weights_of

__all__ = [
    "Outcome",
    "Question",
    "Weights",
    "changed_rows",
    "confusion",
    "flips",
    "leave_one_out",
    "loudness",
    "mcnemar",
    "outcome",
    "over_scaling",
    "predictions",
    "question_of",
    "up_to_layer",
    "weights_by_task",
    "weights_of",
]
