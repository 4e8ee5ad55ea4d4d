"""What a merge says to one's own texts, which texts it breaks, and which adapter is to blame; plain frames out."""

from .answers import picture_predictions, predictions  # fmt: skip
from .blame import leave_one_out, loudness, up_to_layer
from .chat import Answer, Decoding, Prompt, after_prompt, generate, prompt_of
from .questions import Question, question_of
from .rows import Outcome, changed_rows, confusion, mcnemar, outcome
from .scales import flips, over_scaling
from .weights import Weights, weights_by_task, weights_of

__all__ = [
    "Answer",
    "Decoding",
    "Outcome",
    "Prompt",
    "Question",
    "Weights",
    "after_prompt",
    "changed_rows",
    "confusion",
    "flips",
    "generate",
    "leave_one_out",
    "loudness",
    "mcnemar",
    "outcome",
    "over_scaling",
    "picture_predictions",
    "predictions",
    "prompt_of",
    "question_of",
    "up_to_layer",
    "weights_by_task",
    "weights_of",
]
