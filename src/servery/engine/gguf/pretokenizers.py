r"""How text is cut into words before BPE, by the name in `tokenizer.ggml.pre`.

The expressions are those of the models' own tokenizer.json; which model has which name stands in src/llama-vocab.cpp
of ggml-org/llama.cpp, which spells some of them differently for want of `(?i:)` and `\p{Lu}`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher

from tokenizers import Regex, normalizers, pre_tokenizers

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"

_LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_MARKS}|{_SPACES}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_MARKS}|{_SPACES}"

# Words that begin anew where a capital follows a small letter.
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_MARKS_AND_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"


def _cased(suffix: str, digits: str) -> str:
    words = (rf"{_UPPER}*{_LOWER}+", rf"{_UPPER}+{_LOWER}*")
    both = "|".join(rf"[^\r\n\p{{L}}\p{{N}}]?{word}{suffix}" for word in words)
    return rf"{both}|{digits}|{_MARKS_AND_SLASHES}|{_SPACES}"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """One way to cut. The text is split by `patterns` in turn, then by GPT-2's expression if `has_gpt2`.

    `ignores_merges`: a word that is a token is taken whole. `adds_bos` when no key says it. `composes`: the text is
    normalized to NFC first.
    """

    patterns: tuple[str, ...] = ()
    has_gpt2: bool = False
    ignores_merges: bool = False
    adds_bos: bool = False
    composes: bool = False

    @property
    def normalizer(self) -> normalizers.Normalizer | None:
        """What happens to the text before it is cut."""
        return normalizers.NFC() if self.composes else None

    @property
    def steps(self) -> pre_tokenizers.PreTokenizer:
        """For `tokenizers`; ends in the bytes' visible characters."""
        splits = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in self.patterns]
        last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=self.has_gpt2)
        return pre_tokenizers.Sequence([*splits, last])


_LLAMA3_WORDS = PreTokenizer((_LLAMA3,))
_LLAMA3_TOKENS = PreTokenizer((_LLAMA3,), ignores_merges=True, adds_bos=True)
_GPT2 = PreTokenizer(has_gpt2=True)
_DIGITS_AND_GPT2 = PreTokenizer((r"\p{N}",), has_gpt2=True)

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "llama-bpe": _LLAMA3_TOKENS,
    "llama3": _LLAMA3_TOKENS,
    "llama-v3": _LLAMA3_TOKENS,
    "falcon3": _LLAMA3_TOKENS,
    "smaug-bpe": _LLAMA3_WORDS,
    "dbrx": _LLAMA3_WORDS,
    "glm4": _LLAMA3_WORDS,
    "chatglm-bpe": _LLAMA3_WORDS,
    "qwen2": PreTokenizer((_QWEN2,), composes=True),
    "megrez": PreTokenizer((_QWEN2,), composes=True),
    "deepseek-r1-qwen": PreTokenizer((_QWEN2,)),
    "gpt-2": _GPT2,
    "olmo": _GPT2,
    "exaone4": _GPT2,
    "mellum": _GPT2,
    "smollm": _DIGITS_AND_GPT2,
    "starcoder": _DIGITS_AND_GPT2,
    "refact": _DIGITS_AND_GPT2,
    "minerva-7b": _DIGITS_AND_GPT2,
    "tekken": PreTokenizer((_cased("", r"\p{N}"),), ignores_merges=True, adds_bos=True),
    "gpt-4o": PreTokenizer((_cased(f"{_CONTRACTIONS}?", r"\p{N}{1,3}"),)),
    "llama4": PreTokenizer((_cased(f"{_CONTRACTIONS}?", r"\p{N}{1,3}"),)),
    "deepseek-coder": PreTokenizer(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")),
    "amuse": PreTokenizer((r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+",)),
}


def nearest_pre_tokenizer(name: str) -> str:
    """The supported name that is most like `name`."""
    return max(PRE_TOKENIZERS, key=lambda known: SequenceMatcher(None, name.lower(), known).ratio())
