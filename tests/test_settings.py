"""Options and environment variables: one place names them, and the documents say the same."""

import ast
import inspect
import itertools
import re
from pathlib import Path

import pytest

import ana
from ana import settings
from ana.format import chunks

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "configuration.md"
NAME = re.compile(r"\bANA_[A-Z_]+[A-Z]\b")


def described():
    """Return what `set_dl`'s docstring says of each option, by name."""
    text = inspect.getdoc(ana.set_dl).split("Which store:")[1].split("\nReturns:")[0]
    found = re.findall(r"^    (\w+): (.*(?:\n        .*)*)", text, re.MULTILINE)
    return {name: " ".join(said.split()) for name, said in found}


def table(head, rows):
    """Return a table of a document."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def options_table():
    """Return the table of options."""
    said = described()
    return table(
        ["option", "values", "default", "meaning"],
        [
            [
                f"`{name}`",
                option.values,
                (f"`{option.variable.name}`, else " if option.variable else "") + option.shown,
                said[name].split(" Default: ")[0],
            ]
            for name, option in settings.OPTIONS.items()
        ],
    )


def variables_table():
    """Return the table of environment variables."""
    return table(
        ["variable", "values", "default", "meaning"],
        [[f"`{each.name}`", each.values, each.shown, each.meaning] for each in settings.VARIABLES],
    )


@pytest.mark.parametrize("expected", [options_table, variables_table])
def test_the_page_shows_all_options_and_variables(expected):
    """docs/configuration.md holds the tables that follow from `ana.settings`; a failure prints the one to paste."""
    assert expected() in PAGE.read_text(encoding="utf-8"), f"docs/configuration.md needs this table:\n{expected()}"


def test_each_option_is_described_and_typed():
    """`set_dl` describes exactly the options that there are, one by one, and so do the types that editors complete."""
    assert list(described()) != []
    assert set(described()) == set(settings.OPTIONS) == set(settings.Options.__annotations__)
    assert set(settings.CurrentLayerOptions.__annotations__) == set(settings.OPTIONS)
    folders = {name for name, option in settings.OPTIONS.items() if option.folder_only}
    assert set(settings.MemoryOptions.__annotations__) == set(settings.OPTIONS) - folders - {"pickle_dir", "store"}


def test_editors_show_what_set_dl_says():
    """Each key of the types begins with the summary in `set_dl`, and ends with its default: an editor shows no more."""
    shown = {}
    for cls in (settings.MemoryOptions, settings.DataLayerOptions, settings.CurrentLayerOptions):
        (tree,) = ast.parse(inspect.getsource(cls)).body
        for key, text in itertools.pairwise(tree.body):
            if isinstance(key, ast.AnnAssign):
                shown[key.target.id] = " ".join(text.value.value.split())
    assert shown.keys() == settings.OPTIONS.keys()
    for name, said in described().items():
        assert shown[name].startswith(f"{said.partition('. ')[0]}. "), name
        assert shown[name].partition(" Default: ")[2] == said.partition(" Default: ")[2] != "", name


@pytest.mark.slow
def test_every_variable_is_defined_in_one_place():
    """No other module spells the name of a variable in code, and each that a text names is there."""
    known = {each.name for each in settings.VARIABLES}
    for path in (ROOT / "ana").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert set(NAME.findall(text)) <= known, path
        if path.name != "settings.py":
            spelled = {node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)}
            assert not spelled & known, path
    for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        found = {name for name in NAME.findall(path.read_text(encoding="utf-8")) if not name.startswith("ANA_TEST")}
        assert found - {"ANA_OUTSIDE", "ANA_FAST"} <= known, path


def test_defaults_are_the_formats():
    """The level by default, and the levels that there are, are those of the format."""
    assert settings.Options().level == chunks.DEFAULT_LEVEL
    for level in (-chunks.MAX_LEVEL, chunks.MAX_LEVEL):
        assert settings.checked({"level": level}).level == level
        with pytest.raises(ValueError, match=f"level must be .*, not {level * 2}"):
            settings.checked({"level": level * 2})


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("pickel_dir", "pickle_dir"),
        ("keep_byte", "keep_bytes"),
        ("trusted_uid", "trusted_uids"),
        ("durabel", "durable"),
    ],
)
def test_an_unknown_option_suggests_the_near_one(wrong, near, tmp_path):
    """A TypeError, whoever takes it, and no store is made."""
    for take in (
        ana.set_dl,
        ana.DataLayer,
        ana.DirDataLayer,
        lambda folder, **options: ana.DictDataLayer({}, **options),
    ):
        with pytest.raises(TypeError, match=f"no option {wrong}: is it {near}"):
            take(tmp_path / "s", **{wrong: 1})
    with pytest.raises(TypeError, match=f"no option {wrong}: is it {near}"), ana.using_dl(**{wrong: 1}):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_option_unlike_any_lists_them():
    """There is no near one."""
    with pytest.raises(TypeError, match="no option zzz: the options are pickle_dir, store, keep_bytes"):
        ana.set_dl(zzz=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [("errors", "explode"), ("level", 99), ("keep_bytes", "much"), ("allowed", "numpy"), ("trusted_uids", [-1])],
)
def test_a_bad_value_names_the_option_the_value_and_what_may_be(name, value):
    """Whatever the option."""
    with pytest.raises((TypeError, ValueError), match=rf"^{name} must be ") as raised:
        ana.DataLayer(**{name: value})
    assert f"not {value!r}" in str(raised.value)


@pytest.mark.parametrize("name", [each.name for each in settings.VARIABLES if each.parse is not str])
def test_nonsense_in_a_variable_names_it(name, monkeypatch):
    """ANAError says the variable, what it may be set to, and what it is set to; empty is the same as not set."""
    variable = next(each for each in settings.VARIABLES if each.name == name)
    monkeypatch.setenv(name, "nonsense!")
    with pytest.raises(ana.ANAError, match=f"^{name} must be ") as raised:
        variable.value()
    assert variable.values in str(raised.value)
    assert "'nonsense!'" in str(raised.value)
    monkeypatch.setenv(name, "")
    assert variable.value() == variable.default


def test_yes_and_no_of_the_environment(monkeypatch):
    """One rule for all variables that are yes or no: "no" means no for `ANA_NODE_CACHE_VERIFY`, too."""
    for variable in (settings.SHARED, settings.NODE_CACHE_VERIFY):
        for said, found in (("1", True), ("yes", True), ("TRUE", True), ("0", False), ("no", False), ("off", False)):
            monkeypatch.setenv(variable.name, said)
            assert variable.value() is found
