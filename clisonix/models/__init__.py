"""Reference models for streams."""

from clisonix.models.choosing import choose_tokens
from clisonix.models.tokens import Front, Tokeniser, TokenSpec
from clisonix.models.transformer import StreamTransformer

__all__ = ["Front", "StreamTransformer", "TokenSpec", "Tokeniser", "choose_tokens"]
