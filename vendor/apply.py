"""Apply patches/*.patch to vendor/llama.cpp, strictly and as often as asked.

    python vendor/apply.py                   apply; writes only files whose content changes
    python vendor/apply.py --pristine DIR    copy src/ as it was before the patches to DIR (for a stock library)

Why not `git apply`: inside another repository it can exit 0 and change nothing, and a source distribution's user may
have neither git nor patch. Here a context line that differs, a hunk that fits in two places, or a patch that changes
nothing is an error that names the patch. The first version of each touched file is kept in vendor/llama.cpp/.pristine,
and every run starts from it, so patches can be edited and applied again. Standard library only.
"""

import hashlib
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAMP = ".patched.json"  # SHA-256 of each file as we wrote it
PRISTINE = ".pristine"
HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+\d+(?:,(\d+))? @@")


class PatchError(Exception):
    """A patch or the tree is not what it should be; the message names it and says what to do."""


def read(path):
    with open(path, encoding="utf-8", newline="") as file:  # newline="": line ends stay as they are
        return file.read()


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def sha256(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def parse_hunk(lines, at, name):
    """The hunk at lines[at] -> (first old line from 0, old lines, new lines), index of the line after it."""
    first, n_old, n_new = (1 if group is None else int(group) for group in HUNK.match(lines[at]).groups())
    start, old, new = at + 1, [], []
    at = start
    while len(old) < n_old or len(new) < n_new:
        line = lines[at] if at < len(lines) else "<end of file>"
        mark, text = (line[0], line[1:]) if line else (" ", "")  # editors strip the blank of an empty context line
        if mark not in " +-":
            raise PatchError(f"{name}:{at + 1}: '{line}' inside a hunk that promised {n_old} old and {n_new} new lines")
        if mark in " -":
            old.append(text)
        if mark in " +":
            new.append(text)
        at += 1
    if at < len(lines) and lines[at].startswith("\\"):
        raise PatchError(f"{name}:{at + 1}: files without a last newline are not supported")
    if old == new or not old:
        raise PatchError(f"{name}:{start}: this hunk changes nothing or has no context: write it again with `git diff`")
    return (max(first - 1, 0), old, new), at


def parse(text, name):
    """Unified diff -> [(path, [hunk])], paths relative to llama.cpp."""
    lines, files, at = text.split("\n"), [], 0
    while at < len(lines):
        if lines[at].startswith("--- ") and at + 1 < len(lines) and lines[at + 1].startswith("+++ "):
            old, new = (lines[at + i][4:].split("\t")[0] for i in (0, 1))
            if "/dev/null" in (old, new) or old[2:] != new[2:] or ".." in new.split("/"):
                raise PatchError(f"{name}:{at + 1}: new, removed or renamed files are not for patches: {old} -> {new}")
            files.append((new[2:], []))
            at += 2
        elif files and HUNK.match(lines[at]):
            hunk, at = parse_hunk(lines, at, name)
            files[-1][1].append(hunk)
        else:
            at += 1  # prose, `diff --git`, `index`
    if not files or not all(hunks for _, hunks in files):
        raise PatchError(f"{name}: contains no hunk{' for ' + files[-1][0] if files else ''}: it would change nothing")
    return files


def locate(lines, old, expected, begin):
    """Index at which `old` stands in `lines`: where the hunk says, else the one other place after `begin`; or None."""
    if expected >= begin and lines[expected : expected + len(old)] == old:
        return expected
    places = [i for i in range(begin, len(lines) - len(old) + 1) if lines[i : i + len(old)] == old]
    return places[0] if len(places) == 1 else None


def apply_hunks(text, hunks, path, name):
    """`text` with `hunks` applied; the line numbers may be off, the context may not."""
    lines, begin, shift = text.split("\n"), 0, 0
    for first, old, new in hunks:
        place = locate(lines, old, first + shift, begin)
        if place is None:
            raise PatchError(
                f"{name}: the hunk at line {first + 1} of {path} does not apply (its context is not there, or "
                f"more than once), first line '{old[0].strip()}': write the patch anew for the pinned llama.cpp"
            )
        lines[place : place + len(old)] = new
        begin, shift = place + len(new), place - first + len(new) - len(old)
    return "\n".join(lines)


def pristine_text(tree, path, name):
    for candidate in (tree / PRISTINE / path, tree / path):
        if candidate.is_file():
            return read(candidate)
    raise PatchError(f"{name}: touches {path}, which is not in {tree}")


def patched_texts(tree, patches):
    """path -> (text before all patches, text after)."""
    texts = {}
    for patch in patches:
        for path, hunks in parse(read(patch).replace("\r\n", "\n"), patch.name):
            before, text = texts.get(path) or [pristine_text(tree, path, patch.name)] * 2
            texts[path] = (before, apply_hunks(text, hunks, path, patch.name))
    return texts


def refuse_hand_edits(tree, written, texts):
    """Never lose what somebody typed into a patched file."""
    for path, digest in written.items():
        known = {digest, sha256(read(tree / PRISTINE / path))}
        known |= {sha256(texts[path][1])} if path in texts else set()
        if sha256(read(tree / path)) not in known:
            raise PatchError(
                f"{tree / path}: edited by hand since it was patched: put the change into a file of patches/, then "
                f"delete {tree} and build again"
            )


def apply_all(tree, patches):
    """Bring `tree` to pristine + `patches`; returns the paths written. An error leaves the tree as it was."""
    stamp = tree / STAMP
    written = json.loads(read(stamp)) if stamp.is_file() else {}
    texts = patched_texts(tree, patches)
    refuse_hand_edits(tree, written, texts)
    for path in written.keys() - texts.keys():  # no longer patched
        texts[path] = (read(tree / PRISTINE / path),) * 2
    changed = [path for path in sorted(texts) if read(tree / path) != texts[path][1]]
    for path in changed:
        if not (tree / PRISTINE / path).is_file():
            write(tree / PRISTINE / path, texts[path][0])
        write(tree / path, texts[path][1])
    digests = {path: sha256(after) for path, (_, after) in sorted(texts.items())}
    if digests != written:
        write(stamp, json.dumps(digests, indent=1))
    return changed


def verify(tree, patches):
    """Every added line of every patch is in the tree: read again, trusting nothing."""
    for patch in patches:
        for path, hunks in parse(read(patch).replace("\r\n", "\n"), patch.name):
            lines = set(read(tree / path).split("\n"))
            missing = [line for _, old, new in hunks for line in new if line not in lines and line not in old]
            if missing:
                raise PatchError(f"{patch.name}: '{missing[0].strip()}' is not in {path} (a later patch removes it?)")


def copy_pristine(tree, target):
    """src/ without the patches; writes only what differs."""
    for source in sorted((tree / "src").rglob("*")):
        path = source.relative_to(tree).as_posix()
        if source.is_file():
            text, out = pristine_text(tree, path, "--pristine"), target / source.relative_to(tree / "src")
            if not out.is_file() or read(out) != text:
                write(out, text)


def main(args):
    tree = ROOT / "vendor" / "llama.cpp"
    patches = sorted((ROOT / "patches").glob("*.patch"))
    if len(args) == 2 and args[0] == "--pristine":
        copy_pristine(tree, Path(args[1]))
    elif args:
        raise PatchError(f"unknown arguments {args}\n{__doc__}")
    else:
        changed = apply_all(tree, patches)
        verify(tree, patches)
        print(f"{len(patches)} patches in place, {len(changed)} files written")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (PatchError, OSError, UnicodeDecodeError) as error:
        sys.exit(f"vendor/apply.py: {error}")
