"""Writes native/text/unicode_tables.h: the classes of all code points as sorted runs.

    python3.13 tests/golden/unicode_tables.py > native/text/unicode_tables.h

The classes are the ones the pre-tokenizers' regular expressions name: letters (\\p{L}), numbers
(\\p{N}), white space (\\s), punctuation (\\p{P}), and everything else. The general categories come
from the running Python's unicodedata; white space is the White_Space property, which Unicode has
kept unchanged since version 6.3 and unicodedata does not offer.
"""

import sys
import unicodedata

OTHER, LETTER, NUMBER, SPACE, PUNCTUATION = range(5)
WHITE_SPACE = {
    *range(0x09, 0x0E), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B),
    0x2028, 0x2029, 0x202F, 0x205F, 0x3000,
}  # fmt: skip
BY_CATEGORY = {"L": LETTER, "N": NUMBER, "P": PUNCTUATION}
CLASS_BITS = 3

HEAD = """\
/* unicode_tables: the class of every code point, as runs. Generated, not edited.
 *
 * Made by tests/golden/unicode_tables.py from Unicode {version}. Each entry is the first code point
 * of a run, shifted left by {bits}, and the run's unicode_class in the low bits; a run ends where
 * the next begins. Runs are in ascending order and the first starts at code point 0.
 */
#ifndef LL_TEXT_UNICODE_TABLES_H
#define LL_TEXT_UNICODE_TABLES_H

#include <stdint.h>

static const uint32_t unicode_runs[{count}] = {{
"""
TAIL = """\
};

#endif
"""


def class_of(code: int) -> int:
    if code in WHITE_SPACE:
        return SPACE
    return BY_CATEGORY.get(unicodedata.category(chr(code))[0], OTHER)


def runs() -> list[int]:
    result: list[int] = []
    last = -1
    for code in range(sys.maxunicode + 1):
        found = class_of(code)
        if found != last:
            result.append(code << CLASS_BITS | found)
            last = found
    return result


def main() -> None:
    entries = [f"{entry:#x}," for entry in runs()]
    lines: list[str] = []
    line = "   "
    for entry in entries:
        if len(line) + 1 + len(entry) > 100:
            lines.append(line)
            line = "   "
        line += " " + entry
    lines.append(line)
    head = HEAD.format(version=unicodedata.unidata_version, bits=CLASS_BITS, count=len(entries))
    sys.stdout.write(head + "\n".join(lines) + "\n" + TAIL)


if __name__ == "__main__":
    main()
