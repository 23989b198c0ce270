"""Texts that tell tokenizers apart: code, whitespace, numbers, emoji, scripts, special tokens, random codepoints."""

from __future__ import annotations

import random

TEXTS = (
    "",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\n\n\n",
    "\t",
    "\t\t",
    "\t\n",
    " \n",
    " \n \n ",
    "\r\n\r\n",
    "\r",
    "  \t  \r\n   x",
    "a",
    " a",
    "  a",
    "a ",
    "a  ",
    "a   b    c     d      e       f        g",
    " " * 17 + "x" + " " * 33,
    "Hello, world!",
    "Hello, y'all! How are you 😁 ?我想在apple工作1314151天～",
    "The capital of Peru is Lima. 3+4 is 7.",
    "I'm you're he'll we've they'd it's DON'T WE'LL 'S 'Re 'lL don’t",
    "''''''```````\"\"\"\"......!!!!!!??????",
    "1 12 123 1234 12345 123456 1234567 3.14159 1,000,000.00 0x7f 1e-9 ½ Ⅷ ٣٤٥ ๑๒๓ 一二三",
    "CamelCase snake_case kebab-case SCREAMING_CASE iPhone eBay McDonald ÉCOLE école ÀÉÎ",
    'def f(x: int) -> str:\n    """Doc."""\n    return f"{x!r:>{10}}" if x else None\n',
    "#include <vector>\nint main() { std::vector<int> v{1,2,3}; return v[0]<<2 ^ ~v[1]; }\n",
    "SELECT * FROM `users` WHERE name LIKE '%O''Brien%' -- comment\n",
    '{"a": [1, 2.5e-3, null, true], "b": {"c": "\\u00e9"}}',
    '<html><body class="x">&nbsp;<!-- c --></body></html>',
    "https://example.com/a/b?c=d&e=%20#frag user@example.org /usr/bin/env C:\\Windows\\system32",
    "$$$ €100 £5 ¥ + = < > ^ ~ | ` § © ® ™ ° ± × ÷ ∑ ∞ ≤ → ⇒",
    "日本語のテキスト。カタカナとひらがなと漢字、全角ＡＢＣ１２３！",
    "中文文本，没有空格。繁體字 龍龜",
    "한국어 문장입니다. ㄱㄴㄷ",
    "Русский текст, ё Ё й Й. Українська їжак ґ",
    "Ελληνικά κείμενο, άέή ς",
    "العربية نص مع تشكيل مُحَمَّد، ؟",
    "עברית עם נִקּוּד",
    "हिन्दी में पाठ क्षत्रिय ज्ञ",
    "বাংলা লেখা ক্ষ",
    "தமிழ் உரை ஸ்ரீ",
    "తెలుగు వచనం",
    "ไทยข้อความ ที่นี่",
    "ქართული ტექსტი",
    "Հայերեն տեքստ",
    "አማርኛ ጽሑፍ",
    "ខ្មែរ អក្សរ",
    "မြန်မာ စာ",
    "Tiếng Việt có dấu: ộ ữ ẫ",
    "e\u0301 vs é, n\u0303 vs ñ, \u1e9b\u0323, ﬁ ligature, Å Å",
    "👨‍👩‍👧‍👦 🏳️‍🌈 🇵🇪 ☕️ 👍🏽 🤷🏻‍♀️ 😀😃😄",
    "\u200b\u200c\u200d\u2060\ufeff zero width \u00a0nbsp\u2003em\u3000ideographic\u2028line\u2029para\u0085nel",
    "\x00\x01\x02\x1f\x7f\x80\x9f control",
    "\U0001f9ff\U00020000\U0002a6df\U000e0041\uffff\ufffd\ue000",
    "𝕬𝖇𝖈 𝒟𝓔 𐐀𐐨 𒀀 𓀀 ꙮ ᚠᛇᚻ",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|begin_of_text|><|end_of_text|> <|im_end|>x<|im_end|>",
    '<tool_call>{"name": "f"}</tool_call><think>\n</think>\n\n',
    "<|im_start|><|im_start|>  <|im_end|>   text after",
    "<|im_star <|im_end| |> <|unknown|> <s> </s> <unk> <pad> <bos> <0x41> <0x0A> ▁ ▁▁ ▁a",
    "<start_of_turn>user\nhello <end_of_turn>\n<start_of_turn>  model",
    "[INST] hello [/INST] <s>[INST]  x[/INST]</s>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 4,
    "ab" * 100,
    "\n".join(" " * i + "x" for i in range(12)),
)

_ALPHABETS = (
    " \t\n\r ab'sStTdDrRe1290.,!?",
    " \n'ab'llVE123٣½Ⅷ²",
    " aAbBzZéÉßǅʰªÀàñÑ中あア한",
    " \n\r\t\u00a0\u3000\u0085\u2028x.",
    "/\\<>|_-+=*&^%$#@!~`\"'()[]{};:,.? \nab1",
    "▁ a<>|s/s0x",
)


def random_texts(count: int, seed: int = 20260101, specials: tuple[str, ...] = ()) -> list[str]:
    """Random strings: mixtures of tricky characters, of any codepoints, and of special tokens."""
    rng = random.Random(seed)
    return [_random_text(rng, specials) for _ in range(count)]


def _random_text(rng: random.Random, specials: tuple[str, ...]) -> str:
    kind = rng.randrange(4)
    length = rng.randrange(1, 40)
    if kind == 0:
        return "".join(_any_codepoint(rng) for _ in range(length))
    alphabet = rng.choice(_ALPHABETS)
    if kind == 1 and specials:
        pieces = (*alphabet, *specials)
        return "".join(rng.choice(pieces) for _ in range(length))
    if kind == 2:
        return "".join(rng.choice(rng.choice(_ALPHABETS)) for _ in range(length))
    return "".join(rng.choice(alphabet) for _ in range(length))


def _any_codepoint(rng: random.Random) -> str:
    limit = rng.choice((0x80, 0x800, 0x3000, 0x10000, 0x110000))
    while 0xD800 <= (codepoint := rng.randrange(1, limit)) < 0xE000:
        pass
    return chr(codepoint)
