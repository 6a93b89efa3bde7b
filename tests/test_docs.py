"""The documentation is held against the code: nothing is left out, no link is dead, every command
line is one that the parser takes.
"""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from parsers import wire
from probes.manifest import PROGRAMS
from tests import shown
from vtrace.cli import VERBS, build_parser, load_verb
from vtrace.diagnose.codes import CODES, page_of
from vtrace.filter import fields_of
from vtrace.model import STAGES, Kind, TimeState
from vtrace.tables import SCHEMAS, Type

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SECTIONS = ("Requirements", "Fields", "Overhead", "Caveats")


def _tracked():
    done = subprocess.run(
        ["git", "ls-files", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("this is no git clone")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def _pages():
    named = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
    pages = [ROOT / name for name in named if (ROOT / name).exists()]
    return [*pages, *sorted(DOCS.rglob("*.md"))]


def _name(path):
    return str(path.relative_to(ROOT))


PAGES = _pages()


# Probes


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.name)
def test_a_program_has_its_page(program):
    text = (DOCS / "probes" / f"{program.name}.md").read_text()
    assert re.findall("^## (.*)", text, re.MULTILINE) == list(SECTIONS)
    assert text.startswith(f"# {program.name}: {program.title}\n")
    # The measured cost of each of its points stands in one table for all programs.
    assert "(README.md#overhead)" in text
    costs = (DOCS / "probes" / "README.md").read_text()
    assert f"\n| {program.name}: " in costs
    for point in program.points:
        for function in point.functions:
            assert f"`{function}`" in text, f"nothing about {function}"
    for module in {module for point in program.points for module in point.modules}:
        assert f"`{module}`" in text, f"nothing about module {module}"
    index = (DOCS / "probes" / "README.md").read_text()
    (row,) = re.findall(rf"^\| \[{program.name}\]\({program.name}\.md\) .*", index, re.MULTILINE)
    assert row.split("|")[3].split() == [kind.name for kind in program.kinds]


def test_no_page_is_left_of_a_program_that_went():
    names = {program.name for program in PROGRAMS} | {"README"}
    assert {page.stem for page in (DOCS / "probes").glob("*.md")} == names


WRITTEN = [(program, kind) for program in PROGRAMS for kind in program.kinds]


def test_every_kind_is_written():
    # CAPTURED comes from other tools alone.
    assert {kind for _, kind in WRITTEN} == {kind for kind in Kind if kind} - {Kind.CAPTURED}


@pytest.mark.parametrize(
    ("program", "kind"), WRITTEN, ids=[f"{p.name}-{k.name}" for p, k in WRITTEN]
)
def test_a_kind_is_described_with_its_fields(program, kind):
    text = (DOCS / "probes" / f"{program.name}.md").read_text()
    (row,) = re.findall(rf"^\| {kind.name} \|(.*)", text, re.MULTILINE)
    said = set(re.findall(r"`(\w+)`", row))
    wanted = _fields_by_the_header(kind)
    if row.split("|")[1].strip().startswith("as "):
        # "as ENQUEUE, and ..."
        (other,) = re.findall(r"\bas ([A-Z]+),", row)
        said |= _fields_by_the_header(Kind[other])
    assert wanted <= said, f"not said of {kind.name}: {sorted(wanted - said)}"


def _fields_by_the_header(kind):
    # The table ends where the marks in it are explained.
    header, _, _ = (ROOT / "probes/include/vtrace_wire.h").read_text().partition('"x?"')
    (row,) = re.findall(rf"^ \* {kind.name} +(.*(?:\n \* {{20,}}.*)*)", header, re.MULTILINE)
    outside = row.split("(")[0] if "(" in row else row
    return {word for word in re.findall(r"\w+", outside) if word in wire.COLUMNS}


# Findings


@pytest.mark.parametrize("code", CODES)
def test_a_code_has_its_page(code):
    text = (DOCS / page_of(code)).read_text()
    assert text.startswith(f"# {code}: {CODES[code].title}\n")
    index = (DOCS / "findings" / "README.md").read_text()
    assert f"]({code}.md)" in index


def test_no_page_is_left_of_a_code_that_went():
    pages = {page.stem for page in (DOCS / "findings").glob("*.md")}
    assert pages == {*CODES, "README"}


# Columns


@pytest.mark.parametrize("name", wire.COLUMNS)
def test_a_wire_column_is_in_the_page_of_the_file(name):
    kind, meaning = wire.COLUMNS[name]
    wide = {"<u8": "uint64", "<u4": "uint32", "<i4": "int32", "<u2": "uint16"}[kind]
    (row,) = re.findall(
        rf"^\| `{name}` \| (\w+) \| (.*) \|", (DOCS / "trace-file.md").read_text(), re.MULTILINE
    )
    assert row[0] == wide
    assert row[1].split()[0] == meaning.split()[0]


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=lambda schema: schema.name)
def test_every_column_of_a_table_is_described(schema):
    text = _section("filters.md", schema.name)
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| (\w*) ?\| (.*) \|$", text, re.MULTILINE)
    documented = {name: (kind, unit, meaning) for name, kind, unit, meaning in rows}
    assert list(documented) == list(schema.names)
    for column in schema.columns:
        kind, unit, meaning = documented[column.name]
        assert (kind, unit) == (column.type, column.unit)
        assert meaning.startswith(column.meaning), f"{column.name}: the code says {column.meaning}"
        if column.values and not column.name.endswith("_state"):
            assert re.findall("`(.*?)`", meaning) == list(column.values)


def _section(page, name):
    text = (DOCS / page).read_text()
    _, _, rest = text.partition(f"\n### {name}\n")
    assert rest, f"{page} has no section {name}"
    return re.split(r"^##+ ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def test_stages_and_states_are_described():
    text = _section("filters.md", "lifecycles")
    for name in (*STAGES, *(state.name.lower() for state in TimeState)):
        assert f"\n| `{name}` | " in text, name


def test_every_field_of_packets_is_described():
    text = (DOCS / "filters.md").read_text()
    for schema in SCHEMAS.values():
        for name, field in fields_of(schema).items():
            if name in schema.names:
                continue
            if field.presence:
                assert f"`{name}`" in text, name
            else:
                assert f"\n| `{name}` | {field.type} | {field.meaning} |" in text, name
    assert all(f"\n| {kind} | " in text for kind in Type)


# Verbs


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_explains_itself(verb):
    module = load_verb(verb)
    assert VERBS[verb] == module.SUMMARY
    assert module.DESCRIPTION.strip()
    assert module.EXAMPLES
    index = (DOCS / "README.md").read_text()
    assert f"\n| `vtrace {verb}` | " in index
    assert any(re.search(rf"vtrace {verb}\b", page.read_text()) for page in PAGES)


def _command_lines():
    for page in PAGES:
        for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                if re.match(r"(\$ |# )?(sudo )?vtrace( |$)", line):
                    yield _name(page), line
    for verb in VERBS:
        for line, _ in load_verb(verb).EXAMPLES:
            yield f"vtrace {verb} --help", line


def _words(line):
    # Up to a pipe or a redirection; other commands of a pipeline that are vtrace, too.
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>();&")
    lexer.whitespace_split = True
    part = []
    for word in [*lexer, "|"]:
        if set(word) <= set("|&;"):
            if part:
                yield part
            part = []
        else:
            part.append(word)


@pytest.mark.parametrize(("where", "line"), list(_command_lines()), ids=lambda text: text)
def test_a_command_line_is_one_that_the_parser_takes(where, line):
    tried = 0
    for words in _words(line.removeprefix("$ ")):
        while words and words[0] in {"sudo", "$"}:
            words.pop(0)
        if ">" in words:
            words = words[: words.index(">")]
        if not words or words[0] != "vtrace":
            continue
        if any(word.startswith("$(") or word in {"(", ")"} for word in words):
            continue
        tried += 1
        if words[1:] in (["--help"], []) or words[1:2] == ["VERB"]:
            continue
        build_parser([words[1]]).parse_args(words[1:])
        if "-Y" in words:
            _filter_is_right(words[1], words[words.index("-Y") + 1])
    assert tried or "vtrace" not in line.split("|")[0].split()[:2]


def _filter_is_right(verb, expression):
    from vtrace.errors import FilterError
    from vtrace.filter import compile_filter

    of_both = ("filter", "export", "view", "live")
    tables = ["lifecycles", "packets"] if verb in of_both else [verb]
    wrong = []
    for name in tables:
        try:
            compile_filter(expression, SCHEMAS[name])
        except FilterError as error:
            wrong.append(str(error))
    assert len(wrong) < len(tables), wrong


def test_display_filters_in_the_page_are_right():
    from vtrace.errors import FilterError
    from vtrace.filter import compile_filter

    text = (DOCS / "filters.md").read_text()
    _, _, behind = text.partition("## Display filter (`-Y`)")
    block = re.search(r"```\n(.*?)```", behind, re.DOTALL)[1]
    assert len(block.splitlines()) > 3
    for line in block.splitlines():
        for name in ("lifecycles", "packets", "drops"):
            try:
                compile_filter(line, SCHEMAS[name])
                break
            except FilterError:
                continue
        else:
            pytest.fail(f"no table takes {line}")


# Links


def _slug(heading):
    # As GitHub makes it: markup away, lower case, punctuation away, spaces to hyphens.
    heading = re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _prose(path):
    return re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_links_lead_somewhere(page):
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match("[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists():
            dead.append(target)
        elif anchor and there.suffix == ".md":
            heads = re.findall(r"^#+ (.*)", _prose(there), re.MULTILINE)
            if anchor not in [_slug(head) for head in heads]:
                dead.append(target)
    assert not dead


def test_every_page_is_in_the_index():
    index = (DOCS / "README.md").read_text()
    for page in DOCS.rglob("*.md"):
        name = page.relative_to(DOCS)
        listed = (DOCS / name.parts[0] / "README.md").read_text() if len(name.parts) > 1 else index
        assert name.name == "README.md" or f"]({name.name})" in listed, name


def test_schemas_are_named():
    text = (DOCS / "json.md").read_text()
    for path in (ROOT / "vtrace/schemas").glob("*.json"):
        assert f"`vtrace/schemas/{path.name}`" in text
    for verb in VERBS:
        if _takes_json(verb):
            assert f"\n| `{verb}` | " in text, verb


def _takes_json(verb):
    return "--json" in build_parser([verb])._subparsers._group_actions[0].choices[
        verb
    ]._option_string_actions  # fmt: skip


# What belongs to one machine


FOREIGN = (
    r"(?<![\w.~$}\])/])/work/",
    r"deb\.debian\.org",
    r"pypi\.org",
    r"files\.pythonhosted",
    r"proxy\.golang\.org",
    r"registry\.npmjs",
)
HOMES = (r"(?<![\w.~$}\])/])/root/", r"(?<![\w.~$}\])/])/home/\w")


def test_no_file_names_a_place_of_one_machine_or_a_registry():
    found = []
    for path in _tracked():
        if path == Path(__file__):
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        # The test host has a root of its own.
        own = "tests/testbed/" in path.as_posix()
        found += [
            f"{_name(path)}: {match[0]}"
            for pattern in (*FOREIGN, *(() if own else HOMES))
            for match in re.finditer(pattern, text)
        ]
    assert not found


SHOWN = [(_name(page), line, text) for page, line, text in shown.blocks()]


@pytest.mark.parametrize(("page", "line", "text"), SHOWN, ids=[f"{p}: {li}" for p, li, _ in SHOWN])
def test_output_that_is_shown_is_what_is_printed(page, line, text):
    if "| jq" in line and not shutil.which("jq"):
        pytest.skip("needs jq")
    assert shown.matches(text, shown.printed(line)), "see python -m tests.shown"
