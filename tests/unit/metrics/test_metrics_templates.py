"""Templates of labels and annotations: what they print and what is refused when the file is loaded."""

from __future__ import annotations

import math

import pytest

from watchdog.errors import TemplateError
from watchdog.metrics.templates import parse_template

LABELS = {"worker": "1", "class": "auth", "size": "2048"}


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("plain", 0, "plain"),
        ("", 0, ""),
        ("w {{ $labels.worker }}!", 0, "w 1!"),
        ("{{ .Labels.class }}{{.Value}}", 2.5, "auth2.5"),
        ("{{ $labels.missing }}", 0, ""),
        ('{{ index $labels "class" }}', 0, "auth"),
        ("{{ $labels }}", 0, "map[class:auth size:2048 worker:1]"),
        ("a  {{- $value -}}  b", 1, "a1b"),
        ("a{{/* note */}}b", 1, "ab"),
        ('{{ "}}" }}{{ `"x"` }}{{ "a\\"b" }}', 1, '}}"x"a"b'),
        ("{{ $value }}", 1e20, "100000000000000000000"),
        ("{{ $value }}", 1e21, "1e+21"),
        ("{{ $value }}", 1.5e-7, "1.5e-07"),
        ("{{ $value }}", 0.0001, "0.0001"),
        ("{{ $value }}", math.nan, "NaN"),
        ("{{ $value }}", -math.inf, "-Inf"),
        ("{{ humanize $value }}", 1234567, "1.235M"),
        ("{{ $value | humanize }}", 0, "0"),
        ("{{ $value | humanize }}", -0.0034, "-3.4m"),
        ("{{ $value | humanize }}", 999, "999"),
        ("{{ $value | humanize }}", math.inf, "+Inf"),
        ("{{ $value | humanize1024 }}", 1536, "1.5Ki"),
        ("{{ $value | humanize1024 }}", 0.5, "0.5"),
        ("{{ $labels.size | humanize1024 }}", 0, "2Ki"),
        ("{{ $value | humanizePercentage }}", 0.12345, "12.35%"),
        ("{{ $value | humanizeDuration }}", 0, "0s"),
        ("{{ $value | humanizeDuration }}", 0.0203, "20.3ms"),
        ("{{ $value | humanizeDuration }}", 1.5, "1.5s"),
        ("{{ $value | humanizeDuration }}", -61, "-1m 1s"),
        ("{{ $value | humanizeDuration }}", 3725, "1h 2m 5s"),
        ("{{ $value | humanizeDuration }}", 90061, "1d 1h 1m 1s"),
        ('{{ printf "%.2f %s %d %v%%" $value $labels.class 3 true }}', 1.005, "1.00 auth 3 true%"),
        ('{{ $value | printf "%5.1f|" }}', 2.25, "  2.2|"),
        ('{{ printf "%-4s|%04d|%q|%g|%x" "a" 7 "q" 0.1 255 }}', 0, 'a   |0007|"q"|0.1|ff'),
        ('{{ print "a" $value }}{{ len "abc" }}', 1, "a13"),
        ("{{ $labels.class | toUpper | toLower | toUpper }}", 0, "AUTH"),
        ("{{ if gt $value 1.0 }}big{{ end }}", 2, "big"),
        ("{{ if gt $value 1.0 }}big{{ end }}", 1, ""),
        ('{{ if $labels.missing }}a{{ else if eq $labels.class "x" "auth" }}b{{ else }}c{{ end }}', 0, "b"),
        ("{{ if $labels.missing }}a{{ else if ne $value 0.0 }}b{{ else }}c{{ end }}", 0, "c"),
        ("{{ if and (ge $value 1.0) (le $value 2.0) (not (lt $value 1.0)) }}in{{ end }}", 1, "in"),
        ("{{ if or false $labels.missing }}a{{ else }}{{ if true }}b{{ end }}{{ end }}", 0, "b"),
    ],
)  # fmt: skip
def test_a_template_prints(text: str, value: float, expected: str) -> None:
    """Text, variables, pipes, helpers and conditions print as Prometheus prints them."""
    assert parse_template(text).render(LABELS, float(value)) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{{ $value", "not closed"),
        ("{{ }}", "empty action"),
        ("{{ $nope }}", r"undefined variable '\$nope'"),
        ("{{ .Nope }}", "not known"),
        ("{{ . }}", "not known"),
        ("{{ $value.x }}", "no such field"),
        ("{{ $labels.a.b }}", "no such field"),
        ("{{ nope $value }}", "function 'nope' is not supported"),
        ('{{ range query "up" }}x{{ end }}', "'range' is not supported"),
        ("{{ $value | $value }}", "cannot pipe"),
        ("{{ $value | }}", "lacks a command"),
        ("{{ humanize }}", "takes 1 arguments, not 0"),
        ("{{ $value humanize }}", "unexpected 'humanize'"),
        ("{{ ($value }}", "not closed"),
        ("{{ ) }}", "not supported"),
        ("{{ & }}", "unexpected '&'"),
        ("{{ if }}x{{ end }}", "empty action"),
        ("{{ if $value }}x", "without {{ end }}"),
        ("x{{ end }}", "without an if"),
        ("x{{ else }}", "without an if"),
        ("{{ if $value }}{{ else }}{{ else }}{{ end }}", "without an if"),
        ("{{ if $value }}{{ else with }}{{ end }}", "expected {{ else }}"),
    ],
)
def test_what_is_not_supported_fails_at_load(text: str, reason: str) -> None:
    """The error names what is wrong, before any alert needs the text."""
    with pytest.raises(TemplateError, match=reason):
        parse_template(text)


@pytest.mark.parametrize("text", ['{{ printf "%d" 1.5 }}', '{{ printf "%s" }}', '{{ printf "x" 1 }}',
                                  "{{ humanize $labels.class }}", "{{ lt $value $labels.class }}",
                                  '{{ index "a" "b" }}', '{{ printf "%t" 1 }}'])  # fmt: skip
def test_a_template_that_cannot_print_says_which_function(text: str) -> None:
    """A wrong value at run time is an error that names the function."""
    with pytest.raises(TemplateError, match=r"^(printf|humanize|lt|index): "):
        parse_template(text).render(LABELS, 1.0)
