"""All merging methods by name, in the order in which the app shows them. A new one is a file and a line here."""

from __future__ import annotations

from .base import SCALING, Method, Param, Stack
from .core_space import CORE_SPACE
from .ctm import CTM
from .dare import BREADCRUMBS, DARE, DELLA
from .dc_merge import DC_MERGE
from .emr import EMR
from .factorwise import PEFT_LINEAR, PEFT_TIES
from .iso_cts import ISO_CTS
from .knots import KNOTS
from .linear import AVERAGE, DO_MERGING, TASK_ARITHMETIC
from .regmean import REGMEAN
from .ssr import SSR
from .svd import SVD
from .ties import DARE_TIES, TIES
from .tsv import ISO_C, TSV

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        *(AVERAGE, TASK_ARITHMETIC, SVD, TIES, DARE, DARE_TIES, DELLA, BREADCRUMBS, KNOTS, CORE_SPACE),
        *(TSV, DC_MERGE, ISO_C, ISO_CTS, CTM, REGMEAN, SSR, EMR, DO_MERGING, PEFT_LINEAR, PEFT_TIES),
    )
}

__all__ = ["METHODS", "SCALING", "Method", "Param", "Stack"]
