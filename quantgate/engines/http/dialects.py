"""The table of dialects, in the order in which a server is tried: those with a mark of their own first."""

from __future__ import annotations

from typing import Final

from quantgate.engines.http.lines import Dialect
from quantgate.engines.http.llamacpp import LlamaCpp
from quantgate.engines.http.ollama import Ollama
from quantgate.engines.http.openai import OpenAi
from quantgate.engines.http.sglang import SgLang
from quantgate.engines.http.tgi import Tgi

DIALECTS: Final[tuple[Dialect, ...]] = (LlamaCpp(), SgLang(), Tgi(), Ollama(), OpenAi())
