"""Figures drawn from a trace or from tensors. Each function returns a matplotlib Figure and never calls show().

Titles state what the numbers say, shades run from light (little) to dark (much) and read the same in grey, and
token labels make spaces and line breaks visible. Nothing here touches pyplot or matplotlib's global settings. Uses
traces, generation and the slices of `devices`.
"""

from .attention import *
from .attention_diagrams import *
from .caching import *
from .canvas import *
from .chips import *
from .costs import *
from .devices import *
from .drafts import *
from .embedding import *
from .experts import *
from .files import *
from .heads import *
from .learning import *
from .long_texts import *
from .lookup_proofs import *
from .mistakes import *
from .mixture import *
from .neighbours import *
from .one_word import *
from .other_routers import *
from .overview import *
from .pipelines import *
from .positions import *
from .predictions import *
from .rounding import *
from .router_findings import *
from .routing import *
from .settling import *
from .sinks import *
from .small_files import *
from .speed import *
from .steps import *
from .text import *
from .upcycling import *
from .vectors import *
