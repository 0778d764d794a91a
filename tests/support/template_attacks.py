"""Chat templates that would take all time or memory, or break what renders them; run as a program, it renders each.

`python tests/support/template_attacks.py BYTES` allows so much memory and prints a line of JSON for each: its name,
what came of it. Without torch, which no template needs.
"""

import json
import resource
import sys
import types
from pathlib import Path

MUCH, LARGE, DEEP = "computes too much", "larger than 8388608 bytes", "nested more than 100 deep"
COSTLY, HIDDEN = "takes or makes too much", "a size that only the values know"
UNSAFE, RECURSION = "unsafe", "recursion"
HARMLESS = None  # it ends soon and takes little
NOTE = "{% set ns = namespace(x=START) %}{% for i in range(TIMES) %}{% set ns.x = NEXT %}{% endfor %}{{ ns.x|length }}"


ROUND, DOWN = (
    "{% for i in range(99999) %}",
    "{% macro f() %}{{ caller() }}{% endmacro %}{% call f() %}{{ f() }}{% endcall %}",
)
VARARGS = (
    "{% set ns = namespace(x=()) %}{% macro f() %}{% set ns.x = varargs %}{% endmacro %}"
    + ROUND + "{{ f(ns.x) }}{% endfor %}{{ {ns.x: 1} }}"
)  # fmt: skip
HIDING = "{% set ns = namespace(s='ab' * 4000000, l=[1] * 9000) %}"
LONG = "{% set s = 'a' * 8000000 %}"
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
    "a caller that calls its macro": (DOWN, "No caller defined"),
    "a block that prints itself": ("{% block b %}{{ self.b() }}{% endblock %}", RECURSION),
    "a loop that goes down for ever": ("{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}", RECURSION),
    "a loop over its own loop": ("{% for a in [1] %}{% for b in loop %}{% endfor %}{% endfor %}", HARMLESS),
    "sorting again and again": ("{% set a = range(99999)|list %}" + ROUND + "{% set b = a|sort %}{% endfor %}", MUCH),
    "filters in filters": ("{{ range(99999)|select('odd')|map('center', 9999)|list }}", MUCH),
    "slices one after the other": ("{% set b = 'ab' * 4000000 %}" + "{% set b = b[:] %}" * 9999, MUCH),
    "many large values": ("".join(f"{{% set a{i} = 'ab' * 4000000 %}}" for i in range(500)), MUCH),
    # ---- a gigabyte
    "times": ("{{ 'a' * 10 ** 9 }}", COSTLY),
    "a list times": ("{{ [0] * 10 ** 9 }}", COSTLY),
    "text in a loop": (PRINTED, LARGE),
    "text in a loop in a variable": ("{% set x %}" + PRINTED + "{% endset %}", LARGE),
    "text in a loop in a filter": ("{% filter upper %}" + PRINTED + "{% endfilter %}", LARGE),
    "~ doubles": (growing("'ab'", "ns.x ~ ns.x"), LARGE),
    "+ doubles": (growing("'ab'", "ns.x + ns.x"), LARGE),
    "+ doubles a list": (growing("[1]", "ns.x + ns.x"), LARGE),
    "lists of one list": (growing("[1]", "[ns.x, ns.x]"), LARGE),
    "dicts of one dict": (growing("{}", "{1: ns.x, 2: ns.x}"), LARGE),
    "a block doubles": (BLOCK + "{% set ns.x = y %}{% endfor %}", LARGE),
    "namespaces in namespaces": (growing("''", "namespace(a=ns.x, b=ns.x)", 90).replace("|length", ""), HARMLESS),
    "center": ("{{ 'x' | center(10 ** 9) }}", COSTLY),
    "the method center": ("{{ 'x'.center(10 ** 9) }}", COSTLY),
    "zfill": ("{{ '1'.zfill(10 ** 9) }}", COSTLY),
    "a width for %": ("{{ '%1000000000d' % 1 }}", COSTLY),
    "a width for the filter format": ("{{ '%1000000000d' | format(1) }}", COSTLY),
    "a width from the values": ("{{ '%*d' % (10 ** 9, 1) }}", HIDDEN),
    "decimals": ("{{ '%.999999999f' | format(1.0) }}", COSTLY),
    "one value by its name often": ("{{ ('%(a)s' * 20000) % {'a': 'b' * 1000000} }}", COSTLY),
    "a width for str.format": ("{{ '{:1000000000}'.format(1) }}", COSTLY),
    "a width in a width": ("{{ '{:{}}'.format(1, 10 ** 9) }}", HIDDEN),
    "one field often": ("{{ ('{0}' * 20000).format('a' * 1000000) }}", COSTLY),
    "replace": ("{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}", COSTLY),
    "replace nothing": ("{{ ('a' * 1000000).replace('', 'b' * 1000000) }}", COSTLY),
    "join": ("{{ range(90000) | join('b' * 1000000) }}", COSTLY),
    "the method join": ("{{ ('b' * 1000000).join('a' * 100000) }}", COSTLY),
    "indent": ("{{ ('\n' * 1000000) | indent(9999) }}", COSTLY),
    "indent by a text": ("{{ ('\n' * 1000000) | indent('x' * 9999, true, true) }}", COSTLY),
    "tojson, indented": ("{{ messages | tojson(indent=10 ** 8) }}", COSTLY),
    "tojson, indented by a text": ("{{ range(90000) | list | tojson(indent='x' * 10000) }}", COSTLY),
    "tojson with separators": ("{{ range(90000) | list | tojson(separators=['x' * 10000, ':']) }}", COSTLY),
    "batch": ("{{ 'x' | batch(10 ** 9, 'y') | list }}", COSTLY),
    "slice": ("{{ 'x' | slice(10 ** 9) | list }}", COSTLY),
    "a power": ("{{ 3 ** 1000000000 }}", COSTLY),
    "squares of squares": (growing("3", "ns.x * ns.x"), LARGE),
    "an integer in hexadecimal": ("{{ ('f' * 8000000) | int(0, 16) }}", LARGE),
    "round to many places": ("{{ 1 | round(10 ** 8, 'ceil') }}", COSTLY),
    "the sum of lists": ("{{ ([[1]] * 90000) | sum(start=[]) }}", COSTLY),
    "lorem ipsum": ("{{ lipsum(n=10 ** 6) }}", "undefined"),
    "the method expandtabs": ("{{ ('\t' * 90000).expandtabs(90000) }}", UNSAFE),
    "the method translate": ("{{ ('a' * 1000000).translate({97: 'b' * 1000000}) }}", UNSAFE),
    "the method to_bytes": ("{{ (1).to_bytes(10 ** 9, 'big') }}", UNSAFE),
    "a path of many names": ("{{ range(90000) | sort(attribute='a.' * 1000000) }}", COSTLY),
    # ---- deep
    "deep lists": (growing("[]", "[ns.x]", 99999), DEEP),
    "the hash of deep tuples": (growing("()", "(ns.x,)", 99999).replace("ns.x|length", "{ns.x: 1}"), DEEP),
    "filters that feed filters": (growing("[1]", "ns.x | map('string')", 50000).replace("|length", "|list"), HARMLESS),
    "filters in lists": (growing("[1]", "[ns.x]|map('first')", 50000).replace("|length", "|first"), RECURSION),
    "undefined of undefined": (growing("1", "[ns.x].foo", 50000), HARMLESS),
    # ---- where a value hides from those who look for it
    "views of dicts": (growing("{}", "{1: ns.x.items(), 2: ns.x.items()}").replace("|length", ""), LARGE),
    "deep arguments of a macro": (VARARGS, DEEP),
    "join by an attribute": (HIDING + "{{ ([ns] * 1000) | join(attribute='s') }}", "unexpected keyword"),
    "join what map has found": (HIDING + "{{ ([ns] * 1000) | map(attribute='s') | join }}", LARGE),
    "the method join of what map has found": (HIDING + "{{ ','.join(([ns] * 1000) | map(attribute='s')) }}", LARGE),
    "the sum of lists by an attribute": (HIDING + "{{ ([ns] * 8000) | sum('l', []) }}", "at most 2 arguments"),
    "arguments by a star": (HIDING + "{{ cycler(*(([ns] * 1000) | map(attribute='s'))) }}", LARGE),
    "fields that are attributes": (HIDING + "{{ ('{0.s}' * 2000).format(ns) }}", HIDDEN),
    "fields that are items": (HIDING + "{{ ('{0[s]}' * 2000).format({'s': ns.s}) }}", HIDDEN),
    "one list joined by ~": ("{% set a = ['\x01' * 8000000] %}{{ " + " ~ ".join(["a"] * 200) + " }}", LARGE),
    "one list written in a macro": (
        "{% set a = ['\x01' * 8000000] %}{% macro f() %}" + "{{ a }}" * 200 + "{% endmacro %}{{ f() }}", LARGE,
    ),
    "namespaces, each holding the one before": (growing("1", "namespace(x=ns.x, y='ab' * 100000)", 99999), MUCH),
    "small words in many lists": (
        "{% set s = 'ab ' * 60000 %}" + "".join(f"{{% set a{i} = s.split() %}}" for i in range(900)), MUCH,
    ),
    "escaped text": (
        "{% set s = '<' * 8000000 %}{% autoescape true %}{% macro f() %}" + "{{ s }}" * 200
        + "{% endmacro %}{{ f() }}{% endautoescape %}", MUCH,
    ),
    "generators in dicts": (growing("1", "{'k': ns.x} | items", 50000).replace("|length", "|first"), HARMLESS),
    # ---- one call that takes for ever
    "rfind": (LONG + "{{ s.rfind('ab' ~ s[:4000000]) }}", COSTLY),
    "rsplit": (LONG + "{{ s.rsplit('ab' ~ s[:4000000]) | length }}", COSTLY),
    "strip": (LONG + "{{ s.strip('b' * 4000000 ~ 'a') | length }}", COSTLY),
    "trim": (LONG + "{{ s | trim('b' * 4000000 ~ 'a') | length }}", COSTLY),
    "rfind again and again": ("{% set s = 'a' * 8000 %}" + ROUND + "{% set b = s.rfind('ba' ~ s) %}{% endfor %}", MUCH),
    "a date as wide as a book": ("{{ strftime_now('x' * 4000000 ~ '%999999999Y') | length }}", HARMLESS),
    "a long list in a long list": ("{% set a = range(99999)|list %}{{ a | select('in', a) | list }}", COSTLY),
    "center by name": ("{{ 'x' | center(width=10 ** 9) }}", COSTLY),
    "replace by names": ("{{ ('a' * 100000) | replace(new='b' * 100000, old='a') }}", COSTLY),
    "a width behind a key in parentheses": ("{{ '%(a(b)c)1000000000d' % {'a(b)c': 1} }}", COSTLY),
    "a method of a generator": ("{{ ([1] | map('string')).throw(1) }}", UNSAFE),
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


def main(memory: int, *names: str) -> None:
    package = types.ModuleType("qwen3_scratch")
    package.__path__ = [str(Path(__file__).parents[2] / "qwen3_scratch")]
    sys.modules["qwen3_scratch"] = package
    from qwen3_scratch.errors import Error
    from qwen3_scratch.trust.chat_template import compile_template, render

    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    for name in names:
        source, _ = ATTACKS[name]
        try:
            render(compile_template(source, "checkpoint"), "checkpoint", messages=[{"role": "user", "content": "Hi"}])
            found = None
        except Error as error:
            found = str(error)
        print(json.dumps([name, found]), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
