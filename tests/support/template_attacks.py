"""Chat templates that would take all time or memory, or break what renders them; run as a program, it renders each.

`python tests/support/template_attacks.py BYTES` allows so much memory and prints a line of JSON for each: its name,
what came of it, the seconds of the processor. Without torch, which no template needs.
"""

import json
import resource
import sys
import time
import types
from pathlib import Path

MUCH, LARGE, WIDE, BITS, DEEP = (
    "too much",
    "a value larger",
    "at once",
    "an integer of more",
    "nested more than 100 deep",
)
UNSAFE, RECURSION = "unsafe", "recursion"
NOTE = "{% set ns = namespace(x=START) %}{% for i in range(TIMES) %}{% set ns.x = NEXT %}{% endfor %}{{ ns.x|length }}"


ROUND, DOWN = (
    "{% for i in range(99999) %}",
    "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}{{ f() }}{% endcall %}",
)
PRINTED = ROUND + "x" * 99999 + "{% endfor %}"
BLOCK = "{% set ns = namespace(x='ab' * 9) %}" + ROUND + "{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}"


def growing(start: str, following: str, times: int = 60) -> str:
    return NOTE.replace("START", start).replace("NEXT", following).replace("TIMES", str(times))


ATTACKS = {
    # ---- for ever
    "loops in loops": ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", MUCH),
    "a macro that calls itself": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", RECURSION),
    "a macro that calls itself twice": (
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}", MUCH,
    ),
    "a caller that calls its macro": (DOWN, ""),
    "a block that prints itself": ("{% block b %}{{ self.b() }}{% endblock %}", RECURSION),
    "a loop that goes down for ever": ("{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", RECURSION),
    "a loop over its own loop": ("{% for a in [1] %}{% for b in loop %}{% endfor %}{% endfor %}", "its own loop"),
    "sorting again and again": ("{% set a = range(99999)|list %}" + ROUND + "{% set b = a|sort %}{% endfor %}", MUCH),
    "filters in filters": ("{{ range(99999)|select('odd')|map('center', 9999)|list }}", MUCH),
    "slices one after the other": ("{% set b = 'ab' * 4000000 %}" + "{% set b = b[:] %}" * 9999, MUCH),
    "many large values": ("".join(f"{{% set a{i} = 'ab' * 4000000 %}}" for i in range(500)), MUCH),
    # ---- a gigabyte
    "times": ("{{ 'a' * 10 ** 9 }}", LARGE),
    "a list times": ("{{ [0] * 10 ** 9 }}", LARGE),
    "text in a loop": (PRINTED, LARGE),
    "text in a loop in a variable": ("{% set x %}" + PRINTED + "{% endset %}", MUCH),
    "text in a loop in a filter": ("{% filter upper %}" + PRINTED + "{% endfilter %}", MUCH),
    "~ doubles": (growing("'ab'", "ns.x ~ ns.x"), LARGE),
    "+ doubles": (growing("'ab'", "ns.x + ns.x"), LARGE),
    "+ doubles a list": (growing("[1]", "ns.x + ns.x"), LARGE),
    "lists of one list": (growing("[1]", "[ns.x, ns.x]"), LARGE),
    "dicts of one dict": (growing("{}", "{1: ns.x, 2: ns.x}"), LARGE),
    "a block doubles": (BLOCK + "{% set ns.x = y %}{% endfor %}", LARGE),
    "namespaces in namespaces": (growing("''", "namespace(a=ns.x, b=ns.x)", 90).replace("|length", ""), None),
    "center": ("{{ 'x' | center(10 ** 9) }}", WIDE),
    "the method center": ("{{ 'x'.center(10 ** 9) }}", WIDE),
    "zfill": ("{{ '1'.zfill(10 ** 9) }}", WIDE),
    "a width for %": ("{{ '%1000000000d' % 1 }}", LARGE),
    "a width for the filter format": ("{{ '%1000000000d' | format(1) }}", LARGE),
    "a width from the values": ("{{ '%*d' % (10 ** 9, 1) }}", "a width that only its values know"),
    "decimals": ("{{ '%.999999999f' | format(1.0) }}", LARGE),
    "one value by its name often": ("{{ ('%(a)s' * 20000) % {'a': 'b' * 1000000} }}", LARGE),
    "a width for str.format": ("{{ '{:1000000000}'.format(1) }}", WIDE),
    "a width in a width": ("{{ '{:{}}'.format(1, 10 ** 9) }}", WIDE),
    "one field often": ("{{ ('{0}' * 20000).format('a' * 1000000) }}", LARGE),
    "replace": ("{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}", LARGE),
    "replace nothing": ("{{ ('a' * 1000000).replace('', 'b' * 1000000) }}", LARGE),
    "join": ("{{ range(90000) | join('b' * 1000000) }}", LARGE),
    "the method join": ("{{ ('b' * 1000000).join('a' * 100000) }}", LARGE),
    "indent": ("{{ ('\n' * 1000000) | indent(9999) }}", LARGE),
    "indent by a text": ("{{ ('\n' * 1000000) | indent('x' * 9999, true, true) }}", LARGE),
    "tojson, indented": ("{{ messages | tojson(indent=10 ** 8) }}", WIDE),
    "tojson, indented by a text": ("{{ range(90000) | list | tojson(indent='x' * 10000) }}", LARGE),
    "tojson with separators": ("{{ range(90000) | list | tojson(separators=['x' * 10000, ':']) }}", LARGE),
    "batch": ("{{ 'x' | batch(10 ** 9, 'y') | list }}", WIDE),
    "slice": ("{{ 'x' | slice(10 ** 9) | list }}", WIDE),
    "a power": ("{{ 3 ** 1000000000 }}", BITS),
    "squares of squares": (growing("3", "ns.x * ns.x"), BITS),
    "an integer in hexadecimal": ("{{ ('f' * 8000000) | int(0, 16) }}", BITS),
    "round to many places": ("{{ 1 | round(10 ** 8, 'ceil') }}", WIDE),
    "the sum of lists": ("{{ ([[1]] * 90000) | sum(start=[]) }}", "sums up what are no numbers"),
    "lorem ipsum": ("{{ lipsum(n=10 ** 6) }}", "undefined"),
    "the method expandtabs": ("{{ ('\t' * 90000).expandtabs(90000) }}", UNSAFE),
    "the method translate": ("{{ ('a' * 1000000).translate({97: 'b' * 1000000}) }}", UNSAFE),
    "the method to_bytes": ("{{ (1).to_bytes(10 ** 9, 'big') }}", UNSAFE),
    "a path of many names": ("{{ range(90000) | sort(attribute='a.' * 1000000) }}", "names an attribute"),
    # ---- deep
    "deep lists": (growing("[]", "[ns.x]", 99999), DEEP),
    "the hash of deep tuples": (growing("()", "(ns.x,)", 99999).replace("ns.x|length", "{ns.x: 1}"), DEEP),
    "filters that feed filters": (growing("[1]", "ns.x | map('string')", 99999).replace("|length", "|list"), RECURSION),
    "filters in lists": (growing("[1]", "[ns.x]|map('first')", 99999).replace("|length", "|first"), RECURSION),
    "undefined of undefined": (growing("1", "[ns.x].foo", 99999), None),
    # ---- what Jinja and Python cannot read
    "parentheses": ("{{ " + "(" * 99999 + "1" + ")" * 99999 + " }}", RECURSION),
    "brackets": ("{{ " + "[" * 9999 + "]" * 9999 + " }}", RECURSION),
    "a long sum": ("{{ " + "+".join(["1"] * 9999) + " }}", RECURSION),
    "a chain of filters": ("{{ 1" + "|abs" * 9999 + " }}", RECURSION),
    "a chain of names": ("{{ a" + ".b" * 9999 + " }}", RECURSION),
    "nots": ("{{ " + "not " * 9999 + "1 }}", RECURSION),
    "ifs in ifs": ("{% if 1 %}" * 150 + "{% endif %}" * 150, "too many levels"),
    "fors in fors": ("{% for a in [1] %}" * 30 + "{% endfor %}" * 30, "too many statically nested blocks"),
    "a hundred megabytes": ("x" * 10**8, "has 100000000 characters"),
    "a number beyond floats": ("{{ 1e400 }}", "inf"),
}  # fmt: skip


def main(memory: int) -> None:
    package = types.ModuleType("qwen3_scratch")
    package.__path__ = [str(Path(__file__).parents[2] / "qwen3_scratch")]
    sys.modules["qwen3_scratch"] = package
    from qwen3_scratch.errors import Error
    from qwen3_scratch.trust.chat_template import compile_template, render

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for name, (source, _) in ATTACKS.items():
        start = time.process_time()
        try:
            render(compile_template(source, "checkpoint"), "checkpoint", messages=[{"role": "user", "content": "Hi"}])
            found = None
        except Error as error:
            found = str(error)
        print(json.dumps([name, found, time.process_time() - start]), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
