"""The rules of the house as pure functions on source text; ``test_house.py`` applies them.

Every checker takes source text and returns one line per misfit, empty when the file keeps the rule.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import PurePosixPath

PACKAGE = "torch_semimarkov"

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES, MAX_KERNEL_LINES = 60, 150
MAX_PARAMETERS, MAX_KERNEL_PARAMETERS = 8, 20
MAX_NESTING = 4

# First part of a module's path inside the package -> floor. What is missing here is an error.
FLOORS = {
    "collector": 0,
    "errors": 0,
    "given": 0,
    "segments": 0,
    "potentials": 0,
    "semirings": 1,
    "backends": 2,
    "dispatch": 3,
    "functional": 4,
    "scan": 4,
    "durations": 5,
    "distributions": 5,
    "ssm": 5,
    "streaming": 5,
    "triton_scan": 5,
    "semimarkov": 5,
    "nn": 6,
    "training": 7,
    "genes": 8,
    "cli": 9,
    "__main__": 10,
}
SIDE_ROOMS = frozenset({"data", "metrics", "plots"})
MAY_USE_SIDE_ROOMS = frozenset({"training", "genes", "cli"})
# Names of the package's root that any room may import; all others live in a room.
ROOT_NAMES = frozenset({"__version__"})

# Public signatures that ``api.md`` fixes: file -> function -> reason.
PARAMETERS_ALLOWED = {
    "streaming.py": {"semi_crf_streaming_forward": "established call, kept as it was"},
    "nn/head.py": {"SemiMarkovCRFHead.__init__": "established constructor, kept as it was"},
    "nn/uncertainty.py": {"UncertaintySemiMarkovCRFHead.__init__": "takes what its base takes"},
}
# Large literals that are no stand-in for -inf: file -> value -> reason.
LITERALS_ALLOWED = {
    "nn/head.py": {8e9: "edge_memory_threshold, in bytes"},
}

# Kernels that read a tensor as it lies: file -> reason.
STRIDES_ALLOWED = {
    "backends/triton/scan_kernels.py": "a scan reads its dimension where it lies",
}

# The last four are those of backends/cpu/compile.py.
KERNEL_DECORATORS = frozenset(
    {"jit", "njit", "vectorize", "guvectorize", "compiled", "part", "small", "inlined"}
)
# The schema of a registered op takes flat tensors, as a kernel does.
FLAT_DECORATORS = KERNEL_DECORATORS | {"custom_op", "triton_op"}
CODE_FROM_FILES = frozenset({"pickle", "cloudpickle", "dill", "shelve", "marshal"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


# Floors


def module_parts(path: str) -> list[str]:
    """Dotted parts inside the package: ``nn/head.py`` -> ``["nn", "head"]``."""
    parts = list(PurePosixPath(path).with_suffix("").parts)
    return parts[:-1] if parts and parts[-1] == "__init__" else parts


def room(parts: list[str]) -> str:
    """Room of a module. Floor 0 is one room; each backend folder is a room of its own."""
    if not parts:
        return ""
    if parts[0] == "backends":
        return ".".join(parts[:2])
    return "ground" if FLOORS.get(parts[0]) == 0 else parts[0]


def imported_parts(source: str, path: str) -> Iterator[tuple[int, list[str], bool]]:
    """Yield (line, parts inside the package, by name) of every import, also inside functions."""
    package = module_parts(path) if path.endswith("__init__.py") else module_parts(path)[:-1]
    for node in ast.walk(ast.parse(source)):
        by_name = _is_call(node, "import_module") and bool(node.args)
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = _from_targets(node, package)
        elif by_name:
            modules = [_literal(node.args[0]).split(".")]
        else:
            continue
        for module in modules:
            if module[0] == PACKAGE:
                yield node.lineno, module[1:], by_name


def _from_targets(node: ast.ImportFrom, package: list[str]) -> list[list[str]]:
    base = node.module.split(".") if node.module else []
    if node.level:
        base = [PACKAGE, *package[: len(package) - node.level + 1], *base]
    if base == [PACKAGE] or base == [PACKAGE, "backends"]:
        return [[*base, alias.name] for alias in node.names]
    return [base]


def floor_misfits(source: str, path: str) -> list[str]:
    """Imports that do not come from a lower floor or the file's own room."""
    parts = module_parts(path)
    if not parts:
        return _eager_imports_of_root(source, path)
    if parts[0] not in FLOORS and parts[0] not in SIDE_ROOMS:
        return [f"{path}: no floor is known for {parts[0]}; add it to FLOORS in house_rules.py"]
    misfits = []
    for line, target, by_name in imported_parts(source, path):
        if parts[0] == "dispatch" and target[:1] == ["backends"] and by_name:
            continue
        problem = _import_problem(parts, target)
        if problem:
            misfits.append(f"{path}:{line}: {problem}")
    return misfits


def _import_problem(parts: list[str], target: list[str]) -> str:
    if not target:
        return f"imports {PACKAGE} itself; import the room that holds the name"
    name, mine, theirs = target[0], room(parts), room(target)
    if name in ROOT_NAMES or mine == theirs:
        return ""
    if name not in FLOORS and name not in SIDE_ROOMS:
        return f"imports {name} from the root of the package; import the room that holds it"
    if name in SIDE_ROOMS:
        allowed = parts[0] in MAY_USE_SIDE_ROOMS
        return "" if allowed else f"{mine} may not import the side room {name}"
    if parts[0] in SIDE_ROOMS:
        return (
            "" if FLOORS[name] == 0 else f"side room {mine} may import floor 0 only, not {theirs}"
        )
    if name == "backends" and parts[0] != "backends":
        return f"{mine} may not import {theirs}; dispatch loads backends by name"
    if FLOORS[name] >= FLOORS[parts[0]]:
        return f"{mine} (floor {FLOORS[parts[0]]}) may not import {theirs} (floor {FLOORS[name]})"
    return ""


def _eager_imports_of_root(source: str, path: str) -> list[str]:
    misfits = []
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            continue
        if isinstance(statement, Function):
            continue
        for _, target, _ in imported_parts(ast.unparse(statement), path):
            misfits.append(f"{path}:{statement.lineno}: imports {'.'.join(target)} eagerly")
    return misfits


# Sizes


def size_misfits(source: str, path: str) -> list[str]:
    """Functions and kernels that are too long, too deep or take too many parameters."""
    misfits = file_misfits(source, path)
    code = _code_lines(source)
    for name, function in _functions(ast.parse(source)):
        where = f"{path}:{function.lineno}: {name}"
        lines = len(code & set(range(function.lineno, function.end_lineno + 1)))
        lines -= len(code & _docstring_lines(function))
        kernel = _is_decorated(function, KERNEL_DECORATORS)
        most = MAX_KERNEL_LINES if kernel else MAX_FUNCTION_LINES
        if lines > most:
            misfits.append(f"{where} has {lines} lines of code, at most {most}")
        depth = _nesting(function.body)
        if depth > MAX_NESTING:
            misfits.append(f"{where} is nested {depth} deep, at most {MAX_NESTING}")
        strides = [each for each in _argument_names(function) if "stride" in each.lower()]
        if kernel and strides and path not in STRIDES_ALLOWED:
            misfits.append(f"{where} takes {strides[0]}; kernels get contiguous tensors")
        count = _parameters(function)
        flat = _is_decorated(function, FLAT_DECORATORS)
        most = MAX_KERNEL_PARAMETERS if flat else MAX_PARAMETERS
        if count > most and name not in PARAMETERS_ALLOWED.get(path, {}):
            misfits.append(f"{where} takes {count} parameters, at most {most}")
    return misfits


def file_misfits(source: str, path: str) -> list[str]:
    """The file is longer than 400 lines."""
    lines = source.count("\n")
    if lines > MAX_FILE_LINES:
        return [f"{path}: {lines} lines, at most {MAX_FILE_LINES}"]
    return []


def _functions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield prefix + child.name, child
        named = isinstance(child, Function | ast.ClassDef)
        yield from _functions(child, f"{prefix}{child.name}." if named else prefix)


def _is_decorated(function: Function, names: frozenset[str]) -> bool:
    calls = function.decorator_list
    targets = [call.func if isinstance(call, ast.Call) else call for call in calls]
    return any(_last_name(target) in names for target in targets)


def _code_lines(source: str) -> set[int]:
    """Numbers of the lines that hold more than blanks and comments."""
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in silent:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def _docstring_lines(function: Function) -> set[int]:
    if ast.get_docstring(function, clean=False) is None:
        return set()
    return set(range(function.body[0].lineno, function.body[0].end_lineno + 1))


def _nesting(body: list[ast.stmt]) -> int:
    """Depth of compound statements; an ``elif`` stands level with its ``if``."""
    return max((_statement_depth(statement) for statement in body), default=0)


def _statement_depth(statement: ast.stmt) -> int:
    blocks = [getattr(statement, field, []) for field in ("body", "finalbody")]
    blocks += [part.body for part in getattr(statement, "handlers", [])]
    blocks += [part.body for part in getattr(statement, "cases", [])]
    otherwise = getattr(statement, "orelse", [])
    is_elif = isinstance(statement, ast.If) and len(otherwise) == 1
    is_elif = is_elif and isinstance(otherwise[0], ast.If)
    if not is_elif:
        blocks.append(otherwise)
    if not any(blocks):
        return 0
    depth = 1 + max(_nesting(block) for block in blocks)
    return max(depth, _statement_depth(otherwise[0])) if is_elif else depth


def _parameters(function: Function) -> int:
    """Parameters that can be given by position, ``self`` and ``cls`` not counted."""
    names = _argument_names(function)
    return len(names) - (names[:1] in (["self"], ["cls"]))


def _argument_names(function: Function) -> list[str]:
    return [argument.arg for argument in function.args.posonlyargs + function.args.args]


# Numerics and safety


def source_misfits(source: str, path: str) -> list[str]:
    """Finite stand-ins for -inf, ``fastmath``, atomics, ``assert``, code executed from files."""
    tree = ast.parse(source)
    misfits = [f"{path}:{line}: {problem}" for line, problem in _stand_ins(tree, path)]
    for node in ast.walk(tree):
        problem = _unsafe(node)
        if problem:
            misfits.append(f"{path}:{node.lineno}: {problem}")
    return misfits


def _stand_ins(tree: ast.AST, path: str) -> Iterator[tuple[int, str]]:
    allowed = LITERALS_ALLOWED.get(path, {})
    divisors = {
        id(node.right)
        for node in ast.walk(tree)
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div)
    }
    for node in ast.walk(tree):
        value, limit = _number(node)
        if value is not None and abs(value) >= limit and abs(value) != float("inf"):
            if value not in allowed and id(node) not in divisors:
                yield (
                    node.lineno,
                    f"{value:g} looks like a stand-in for infinity; use float('-inf')",
                )
        elif isinstance(node, ast.Attribute) and node.attr in ("min", "max"):
            owner = node.value.func if isinstance(node.value, ast.Call) else node.value
            if _last_name(owner) in ("finfo", "float_info"):
                yield node.lineno, f"{ast.unparse(node)} as a stand-in for infinity"


def _number(node: ast.AST) -> tuple[float | None, float]:
    """Value of a literal and the size from which it looks like a stand-in for infinity."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = getattr(node.operand, "value", None)
        if type(value) in (int, float):
            return -value, 1e4
    elif isinstance(node, ast.Constant) and type(node.value) is float:
        return node.value, 1e9
    elif _is_call(node, "float") and node.args and _literal(node.args[0]):
        return float(_literal(node.args[0])), 1e4
    return None, 0.0


def _unsafe(node: ast.AST) -> str:
    if isinstance(node, ast.Assert):
        return "assert in the library; raise an error of errors.py"
    if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names]
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else names
        found = [name for name in modules if name.split(".")[0] in CODE_FROM_FILES]
        return f"imports {found[0]}, which executes code from files" if found else ""
    if not isinstance(node, ast.Call):
        return ""
    name = ast.unparse(node.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name == "torch.load" and keywords.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if keywords.get("allow_pickle", "False") != "False":
        return f"{name} with allow_pickle"
    if keywords.get("fastmath", "False") != "False":
        return f"{name} with fastmath"
    if name.startswith("tl.atomic_"):
        return f"{name}, whose order nothing fixes"
    return ""


def _is_call(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and _last_name(node.func) == name


def _last_name(node: ast.AST) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def _literal(node: ast.AST) -> str:
    value = getattr(node, "value", None)
    return value if isinstance(value, str) else ""
