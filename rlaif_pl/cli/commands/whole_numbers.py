"""``1e3`` for options that are whole numbers, in configs and on the command line.

YAML and jsonargparse (4.53) read ``1e3`` as a float and then refuse it, or hand ``1000.0`` on where
that equals the default. Which options are whole numbers only jsonargparse knows when it looks at a
value, and it has no hook there: ``plain_texts`` replaces its function, by way of this one.
"""

from __future__ import annotations

import re
from types import UnionType
from typing import Any, Union, get_args, get_origin

from jsonargparse import _typehints

from rlaif_pl.pipeline.yaml_files import whole_number

_adapt = _typehints.adapt_typehints
WHOLE = re.compile(r"[+-]?[0-9]+")


def adapt(value: Any, hint: Any, *args: Any, **options: Any) -> Any:
    """Check a value as jsonargparse does, after turning it where the hint asks for a whole number.

    Where a hint takes floats, too (``limit_val_batches``: 1 is one batch and 1.0 all of them), only
    numbers beyond 1 are turned, and what is written without a point stays whole. The order of such a
    hint's types says nothing: Python keeps one of two equal unions, whichever came first.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    is_text = isinstance(value, str) and str in kinds
    number = whole_number(value) if int in kinds and not is_text else None
    if float in kinds and int in kinds and WHOLE.fullmatch(str(value)) and not is_text:
        return _adapt(int(value), int, *args, **options)
    if number is None:
        return _adapt(value, hint, *args, **options)
    if float in kinds:
        whole = abs(number) > 1
        return _adapt(number if whole else float(number), int if whole else float, *args, **options)
    return _adapt(number, hint, *args, **options)
