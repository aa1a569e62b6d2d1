"""What many verbs take. Knows no verb."""

from typing import Annotated, Literal

import tyro

Device = Literal["auto", "cpu", "cuda", "mps"]
Dtype = Literal["auto", "float32", "bfloat16"]
Json = Annotated[bool, tyro.conf.FlagCreatePairsOff]
