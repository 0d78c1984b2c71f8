"""Which form a model's calls have: its chat template is asked, by having it render two calls and looking at them.

A template writes the calls of earlier turns as the model is to write new ones, so that what it writes can be read
back: marks, and where name and arguments stand between them.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Dict, List, Optional, Tuple

from .form import SPACE, CallForm, Marks, ToolCall
from .json_calls import FENCE, JsonCalls, names_of
from .named_calls import NamedCalls
from .splitter import Splitter
from .tagged_calls import TaggedCalls, types_of
from .thinking import Thinking

Render = Callable[[List[Dict[str, Any]], List[Any]], str]  # messages and tools to text; raises what it wants

_NAMES = ("ckv_first", "ckv_second")
_IDS = ("ckvcall01", "ckvcall02")  # Mistral: nine letters or digits
_KEYS = ("ckv_key", "ckv_other")
_VALUES = ("ckv_value", "ckv_word")
_HEADER_CHARS = 20
_ARGUMENTS = dict(zip(_KEYS, _VALUES))
_OTHERS = {_KEYS[0]: "a < b {\nc", _KEYS[1]: 7}  # what a form must be able to read


def _tool(name: str) -> Dict[str, Any]:
    kinds = ("string", "integer")
    properties = {key: {"type": kind, "description": "A word."} for key, kind in zip(_KEYS, kinds)}
    parameters = {"type": "object", "properties": properties, "required": list(_KEYS)}
    return {"type": "function", "function": {"name": name, "description": "It.", "parameters": parameters}}


_TOOLS = [_tool(name) for name in _NAMES]
_TAG = re.compile(r"<[^<>]*>?|\[/?[A-Z_]+\]|[^<\[]+|\[")
_MARK = re.compile(r"<[^<>]+>|\[/?[A-Z_]+\]|`{3}\w*|\]")


def learned(render: Render, tools: Sequence[Any], template: str, thinking: Optional[Thinking]) -> Optional[CallForm]:
    """The form of the calls that a template writes; None if it writes none, or in a form that cannot be read back.

    template: its source.
    """
    shown = next(_rendered(render, thinking, _ARGUMENTS), None)
    if shown is None:  # perhaps it speaks to the model of calls and writes none
        marks = Marks(("<tool_call>", FENCE), behind=("</tool_call>", "```"), bare=True)
        return JsonCalls(marks, names_of(tools)) if "<tool_call>" in template else None
    if not _reads_back(_form(shown, _TOOLS, template), next(_rendered(render, thinking, _OTHERS), "")):
        return None
    return _form(shown, tools, template)


def _form(text: str, tools: Sequence[Any], template: str) -> Optional[CallForm]:
    form = _of_json(text, tools) or _of_names(text, template) or _of_tags(text, tools)
    if isinstance(form, JsonCalls) and "<|python_tag|>" in template:  # Llama 3 may begin with it
        return replace(form, marks=replace(form.marks, opens=(*form.marks.opens, "<|python_tag|>")))
    return form


def _reads_back(form: Optional[CallForm], text: str) -> bool:
    """Whether the form finds in a text what the template was given."""
    splitter = Splitter(form)
    found = [part for part in splitter.feed(text) + splitter.end() if isinstance(part, ToolCall)]
    wanted = [ToolCall(name, json.dumps(_OTHERS)) for name in _NAMES]
    marked = form is not None and all(set("<>[`") & set(mark) for mark in form.marks.opens)  # words are no marks
    return marked and bool(found) and found == wanted[: len(found)]


def _rendered(render: Render, thinking: Optional[Thinking], arguments: Dict[str, Any]) -> Iterator[str]:
    """What a template writes for two calls, else for one, behind the user's message and thoughts."""
    user = {"role": "user", "content": "Q"}
    for n_calls, content, given in itertools.product((2, 1), ("", None), (arguments, json.dumps(arguments))):
        calls = [
            {"id": id_, "type": "function", "function": {"name": name, "arguments": given}}
            for name, id_ in list(zip(_NAMES, _IDS))[:n_calls]
        ]
        answer = {"role": "assistant", "content": content, "tool_calls": calls}
        try:
            asked, text = render([user], _TOOLS), render([user, answer], _TOOLS)
        except Exception:  # a template is a program and may raise anything
            continue
        text = _behind(asked, text, thinking)
        encoded_twice = '\\"' in text
        if _NAMES[0] in text and _KEYS[1] in text and not encoded_twice:
            yield text


def _behind(asked: str, text: str, thinking: Optional[Thinking]) -> str:
    """What a text says behind a prompt with which it begins, and behind its thoughts. Tags stay whole."""
    n = next((i for i, (a, b) in enumerate(zip(asked, text)) if a != b), min(len(asked), len(text)))
    n = n if text.rfind("<", 0, n) <= text.rfind(">", 0, n) else text.rfind("<", 0, n)
    at = max(text.find(_NAMES[0], n), n)
    header = asked[-_HEADER_CHARS:]  # of the answer; some templates say other things before it once there is one
    n = max(n, text.rfind(header, 0, at) + len(header)) if header in text[:at] else n
    return (text[n:at] if thinking is None else text[n:at].rpartition(thinking.end)[2]) + text[at:]


#
# the three kinds
#


def _of_json(text: str, tools: Sequence[Any]) -> Optional[CallForm]:
    """Objects with the name in them."""
    spans = [span for name in _NAMES if (span := _json_around(text, name))]
    if not spans:
        return None
    (start, end), (_, last) = spans[0], spans[-1]
    between = text[end : spans[1][0]] if len(spans) > 1 and spans[1][0] >= end else ""
    marks = _marks(text[:start], between, text[last:])
    # small models forget the mark, or put a fence in its place
    marks = replace(marks, opens=(*marks.opens, FENCE), behind=(*marks.behind, "```"), bare=True)
    return JsonCalls(marks, names_of(tools))


def _of_names(text: str, template: str) -> Optional[CallForm]:
    """A name, then the arguments as an object."""
    at = text.find(_NAMES[0])
    start = text.find("{", at)
    value = _value_at(text, start)
    if at < 0 or value is None or value[0] != _ARGUMENTS:
        return None
    second = text.find(_NAMES[1])
    end = value[1]
    between = text[end:second] if second > end else ""
    last = _value_at(text, text.find("{", second)) if between else None
    marks = _marks(text[:at], between, text[last[1] if last else end :])
    if marks.bare and ">>>all" in template:  # functionary: "all" is the tool that talks to the user
        marks = replace(marks, words="all\n")
    behind_name = text[at + len(_NAMES[0]) : start]
    return NamedCalls(replace(marks, within=tuple(_MARK.findall(behind_name))), _pattern(behind_name))


def _of_tags(text: str, tools: Sequence[Any]) -> Optional[CallForm]:
    """A name, then names and values of arguments."""
    places = [text.find(word) for word in (_NAMES[0], _KEYS[0], _VALUES[0], _KEYS[1], _VALUES[1])]
    if -1 in places or places != sorted(places):
        return None
    name, key, value, other, word = places
    behind_name = text[name + len(_NAMES[0]) : key]
    between = text[value + len(_VALUES[0]) : other]
    before_key = _common_end(behind_name, between)
    behind_value = between[: len(between) - len(before_key)].strip(SPACE)
    if not before_key.strip(SPACE) or not behind_value:
        return None
    end, second = word + len(_VALUES[1]), text.find(_NAMES[1])
    last = text.rfind(_VALUES[1]) + len(_VALUES[1])
    marks = _marks(text[:name], text[end:second] if second > end else "", text[last:])
    within = tuple(mark for mark in _MARK.findall(text[name:word]) if _KEYS[0] not in mark and _KEYS[1] not in mark)
    return TaggedCalls(
        replace(marks, within=within),
        behind_name[: len(behind_name) - len(before_key)].strip(SPACE),
        before_key.strip(SPACE),
        text[key + len(_KEYS[0]) : value].strip(SPACE),
        behind_value,
        types_of(list(tools)),
    )


#
# what stands around
#


def _marks(head: str, between: str, tail: str) -> Marks:
    """head: before the first call. between: two of them. tail: behind the last, up to the next turn."""
    bare = not head.strip(SPACE)
    opened = between if bare else _common_end(head, between)
    opened = opened if opened.strip(SPACE + ",;") else head
    before = head[: len(head) - len(opened)]
    behind = between[: len(between) - len(opened)] if between.endswith(opened) else between
    open_ = opened.strip(SPACE)
    return Marks(
        opens=(open_,) if open_ else (),
        before=tuple(_MARK.findall(before)),
        behind=tuple(mark for mark in dict.fromkeys(_MARK.findall(behind + tail)) if mark != open_),
        bare=bare,
    )


def _common_end(a: str, b: str) -> str:
    """The same tags, words and space at the end of both."""
    tags, others = _TAG.findall(a), _TAG.findall(b)
    n = 0
    while n < min(len(tags), len(others)) and tags[-1 - n] == others[-1 - n]:
        n += 1
    return "".join(tags[len(tags) - n :])


def _pattern(text: str) -> str:
    """A regular expression of what stands between name and arguments: ids and numbers are others each time."""
    parts = re.split(f"({_IDS[0]}|[0-9]+)", text.strip(SPACE))
    return r"\s*" + "".join(_generalised(part) for part in parts) + r"\s*"


def _generalised(part: str) -> str:
    if part == _IDS[0]:
        return r"\w+"
    return r"[0-9]+" if part.isdigit() else re.sub(r"\\?\s+", r"\\s*", re.escape(part))


def _json_around(text: str, name: str) -> Optional[Tuple[int, int]]:
    """The first JSON value that has the name in it."""
    at = text.find(name)
    for start in (each.start() for each in re.finditer(r"[{\[]", text[: max(at, 0)])):
        found = _value_at(text, start)
        if found and found[1] > at:
            return start, found[1]
    return None


def _value_at(text: str, start: int) -> Optional[Tuple[Any, int]]:
    try:
        return json.JSONDecoder().raw_decode(text, max(start, 0))
    except ValueError:
        return None
