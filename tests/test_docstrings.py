"""Hovering over a public name in an editor says what each parameter and attribute is."""

import ast
import copyreg
import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from unittest.mock import MagicMock

import pytest
from support import extras

import ana
import ana.integrations

pytestmark = pytest.mark.once

MODULES = [
    "ana",
    "ana.maintenance",
    "ana.stores",
    "ana.testing",
    *(f"ana.integrations.{found.name}" for found in pkgutil.iter_modules(ana.integrations.__path__)),
]
RUN_BY_PYTEST = re.compile(r"test_|place$|store$")
"""Methods of `ana.testing.StoreContract` that are tests and fixtures: nobody calls them."""


@pytest.fixture(autouse=True)
def _engines(monkeypatch):
    """mpi4py would start MPI in this process, ray would change its paths, and dask how exceptions pickle."""
    for name in ("mpi4py", "ray", "ray.cloudpickle", "ray.cloudpickle.cloudpickle"):
        monkeypatch.setitem(sys.modules, name, MagicMock())
    before = dict(copyreg.dispatch_table)
    yield
    copyreg.dispatch_table.clear()
    copyreg.dispatch_table.update(before)
    for name in ("mpi", "ray"):
        sys.modules.pop(f"ana.integrations.{name}", None)


def section(doc, title):
    """Return the names that a section of a docstring explains, in order."""
    found = re.search(rf"^{title}:\n((?: +.*\n|\n)*)", f"{doc}\n", re.MULTILINE)
    return re.findall(r"^    \*{0,2}(\w+):", found[1], re.MULTILINE) if found else []


def public(module):
    """Yield the public functions and classes of a module, with their names."""
    try:
        face = importlib.import_module(module)
    except ModuleNotFoundError as error:
        extras.require(error.name)
        raise
    for name in face.__all__:
        found = getattr(face, name)
        if inspect.isclass(found) or inspect.isfunction(found):
            yield f"{module}.{name}", found


def bases(cls):
    """Return the class and those of its bases that are ours."""
    return [base for base in cls.__mro__ if base.__module__.startswith("ana.")]


def overrides(cls, name):
    """Return whether a base has the method, too: then its docstring is the one that explains the parameters."""
    return name != "__init__" and any(name in vars(base) for base in cls.__mro__[1:])


def methods(cls):
    """Yield the public methods that a class defines itself, and `__init__` unless only ANA calls it, by name."""
    made_by_ana = dataclasses.is_dataclass(cls) or getattr(cls, "_is_protocol", False) or issubclass(cls, Exception)
    for name, found in vars(cls).items():
        if name == "__init__" and made_by_ana:
            continue
        function = inspect.unwrap(getattr(found, "__func__", found))
        if inspect.isfunction(function) and (name == "__init__" or not name.startswith("_")):
            yield name, function


def is_evident(parameters):
    """Return whether a summary line is enough: for at most one parameter, which has no default."""
    return len(parameters) <= 1 and all(
        each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD) for each in parameters
    )


def complaint(function, cls=None):
    """Return what is wrong with the docstring of a function, or of a class's method; None if nothing is."""
    parameters = list(inspect.signature(function).parameters.values())[0 if cls is None else 1 :]
    names = [each.name for each in parameters]
    if not function.__doc__:
        explained = function.__name__ == "__init__" and set(names) <= set(section(inspect.getdoc(cls), "Attributes"))
        return None if explained else "no docstring"
    said = section(inspect.cleandoc(function.__doc__), "Args")
    return None if said == names or (not said and is_evident(parameters)) else f"Args: {said}, parameters: {names}"


def attributes(cls):
    """Yield the public attributes that a class's body or `__init__` assigns, and whether a string follows."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    blocks = [(body.body, ""), *((part.body, "") for part in body.body if isinstance(part, ast.If))]
    blocks += [(part.body, "self.") for part in body.body if getattr(part, "name", "") == "__init__"]
    for block, owner in blocks:
        for line, after in zip(block, [*block[1:], None], strict=True):
            if isinstance(line, ast.Assign | ast.AnnAssign):
                for target in getattr(line, "targets", [getattr(line, "target", None)]):
                    whole = ast.unparse(target)
                    name = whole.removeprefix(owner)
                    if whole == owner + name and name.isidentifier() and not name.startswith("_"):
                        yield name, isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)


def unexplained(cls):
    """Return the public attributes and properties of a class that nothing explains."""
    said = {name for base in bases(cls) for name in section(inspect.getdoc(base), "Attributes")}
    said |= {name for base in bases(cls) for name, followed in attributes(base) if followed}
    said |= {name for base in bases(cls)[1:] for name, found in vars(base).items() if inspect.getdoc(found)}
    found = {name for name, _ in attributes(cls) if not overrides(cls, name)}
    found |= {
        name for name, one in vars(cls).items() if isinstance(one, property) and not (name[0] == "_" or one.__doc__)
    }
    return found - said


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_docstrings_explain_each_parameter(module):
    """The Args of public functions and methods are their parameters; a single one may be left to the summary."""
    wrong = {}
    for name, found in public(module):
        if not found.__doc__:
            wrong[name] = "no docstring"
        if inspect.isfunction(found):
            wrong[name] = complaint(inspect.unwrap(found))
            continue
        for base in bases(found):
            for method, function in methods(base):
                if overrides(base, method) and function.__doc__:
                    continue
                if module == "ana.testing" and RUN_BY_PYTEST.match(method):
                    continue
                wrong[f"{base.__module__}.{base.__qualname__}.{method}"] = complaint(function, base)
    assert {name: what for name, what in wrong.items() if what} == {}


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_docstrings_explain_each_attribute(module):
    """In the class's `Attributes:`, or in a string below the assignment."""
    wrong = {}
    for _, found in public(module):
        for base in bases(found) if inspect.isclass(found) else ():
            wrong[f"{base.__module__}.{base.__qualname__}"] = sorted(unexplained(base))
    assert {name: what for name, what in wrong.items() if what} == {}
