# Inferred types of this library know neither the backend nor the file: anything may come back.
from typing import Any

def __getattr__(name: str) -> Any: ...
