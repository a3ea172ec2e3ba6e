"""The checks: of a rule, of a backward pass, of the gradient of a loss, of a custom_vjp; and the same as assertions."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fundamentals.base import Rule
from fundamentals.gradcheck import diagnosis, shapes
from fundamentals.gradcheck.contract import ContractError, ShapeError, breach
from fundamentals.gradcheck.evaluation import restrict
from fundamentals.gradcheck.judge import Evidence, Options, judge
from fundamentals.gradcheck.precision import is_key, widen
from fundamentals.gradcheck.probes import polish
from fundamentals.gradcheck.report import Cause, Diagnosis, Leaf, Report, Verdict
from fundamentals.gradcheck.subject import Problem, Subject, prepare

SECONDS = {"fast": 20.0, "full": 120.0}  # for hypotheses about a mistake, besides what compiling them takes


def check_vjp(
    primal: Callable[..., Any],
    fwd: Callable[..., tuple[Any, Any]],
    bwd: Callable[..., Sequence[Any]],
    args: tuple[Any, ...],
    **options: Any,
) -> Report:
    """Check a backward pass in the protocol of `jax.custom_vjp`.

    Args:
      primal: the function, `primal(*args) -> y`; any pytrees.
      fwd: `fwd(*args) -> (y, residuals)`.
      bwd: `bwd(residuals, dy) -> (dx, …)`, one entry for each argument; None for integers and keys.
      args: where. Sizes that differ from each other tell mistakes apart that equal ones do not.
      **options:
        seed: of random cotangents and points; 0.
        cotangent: dy for the arguments given; a random one by default. Other points have random ones anyway.
        points: number of other points, near the arguments, at which to look too, and one more that keeps no zero and no
          symmetry of theirs; or these points themselves, a list of tuples of arguments; 2.
        order: 2 to check the derivative of the backward pass as well.
        kinks: "classify" (a convention at a kink passes) or "strict" (it fails).
        budget: "fast" or "full" (more points and directions, and more time to look for causes).
        diagnose: whether to look for the cause of what is wrong; True.

    Returns:
      A `Report`. Whatever the functions do, there is one; what they raise is in it.

    Raises:
      TypeError, ValueError: the arguments of the check itself are unusable.

    Example: `print(check_vjp(linear, linear_fwd, linear_bwd, (x, w, b)))`.
    """
    _callable(primal=primal, fwd=fwd, bwd=bwd)

    def backward(args: tuple[Any, ...], dy: Any) -> Sequence[Any]:
        return bwd(_pair(fwd(*args))[1], dy)

    args = _arguments(args)
    subject = Subject(
        _name(primal), primal, backward, args, tuple(range(len(args))), forward=lambda *a: _pair(fwd(*a))[0]
    )
    return _check(subject, options)


def check_rule(rule: Rule, args: tuple[Any, ...], **options: Any) -> Report:
    """Check a `fundamentals.base.Rule`, or any (primal, fwd, bwd); otherwise as `check_vjp`."""
    if not isinstance(rule, tuple | list) or len(rule) != 3:
        raise TypeError(f"rule is {rule!r}; expected (primal, fwd, bwd)")
    return check_vjp(*rule, args, **options)


def check_gradient(
    loss: Callable[..., Any],
    gradient: Callable[..., Any],
    args: tuple[Any, ...],
    *,
    argnums: int | Sequence[int] = 0,
    **options: Any,
) -> Report:
    """Check a gradient that stands where `jax.grad(loss, argnums)` could.

    Args:
      loss: `loss(*args)`, a scalar. gradient: `gradient(*args)`: the gradient for the one argument, or a tuple if
      argnums is one. It may be plain NumPy. args: where. argnums: which arguments the gradient is for. **options: as in
      `check_vjp`, without cotangent.
    """
    _callable(loss=loss, gradient=gradient)
    args = _arguments(args)
    one = isinstance(argnums, int | np.integer)
    numbers: tuple[Any, ...] = (int(argnums),) if one else tuple(argnums)  # type: ignore[arg-type]
    if not all(isinstance(i, int) and -len(args) <= i < len(args) for i in numbers):
        raise ValueError(f"argnums is {argnums}; there are {len(args)} arguments")
    numbers = tuple(i % len(args) for i in numbers)
    if options.get("cotangent") is not None:
        raise ValueError("cotangent: a loss has none; its gradient is that for dy = 1")

    def backward(args: tuple[Any, ...], _: Any) -> Sequence[Any]:
        found = gradient(*args)
        return (found,) if one else found

    return _check(Subject(_name(loss), loss, backward, args, numbers, is_loss=True), options)


def check_custom_vjp(
    f: Callable[..., Any], args: tuple[Any, ...], *, reference: Callable[..., Any] | None = None, **options: Any
) -> Report:
    """Check the derivative rules of a function that has its own (`jax.custom_vjp`, `jax.custom_jvp`), at any depth.

    Args:
      f: the function. args: where. reference: the same function without them. By default f itself, its operations
      differentiated instead of its rules. **options: as in `check_vjp`.
    """
    _callable(f=f, **({} if reference is None else {"reference": reference}))

    def backward(args: tuple[Any, ...], dy: Any) -> Sequence[Any]:
        cotangents: Sequence[Any] = jax.vjp(f, *args)[1](dy)
        return cotangents

    args = _arguments(args)
    every = tuple(range(len(args)))
    if reference is None and not _has_rules(f, args):
        detail = "the function has no rule of its own, custom_vjp or custom_jvp: there is nothing to check"
        leaf = Leaf("", Verdict.INCONCLUSIVE, None, None, detail)
        return Report(_name(f), Verdict.INCONCLUSIVE, (leaf,), (), (), _options(options).kinks == "strict")
    if reference is None:
        return _check(Subject(_name(f), f, backward, args, every, plain=True), options)
    return _check(Subject(_name(f), reference, backward, args, every, forward=f), options)


def _has_rules(f: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    try:
        text = str(jax.make_jaxpr(lambda *args: f(*args))(*args))
    except Exception:  # which the check itself will tell
        return True
    return "custom_vjp_call" in text or "custom_jvp_call" in text


def assert_vjp(primal: Any, fwd: Any, bwd: Any, args: tuple[Any, ...], **options: Any) -> Report:
    """`check_vjp`, for tests: an `AssertionError` with the table if it fails."""
    return _asserted(check_vjp(primal, fwd, bwd, args, **options))


def assert_rule(rule: Rule, args: tuple[Any, ...], **options: Any) -> Report:
    """`check_rule`, for tests."""
    return _asserted(check_rule(rule, args, **options))


def assert_gradient(loss: Any, gradient: Any, args: tuple[Any, ...], **options: Any) -> Report:
    """`check_gradient`, for tests."""
    return _asserted(check_gradient(loss, gradient, args, **options))


def assert_custom_vjp(f: Any, args: tuple[Any, ...], **options: Any) -> Report:
    """`check_custom_vjp`, for tests."""
    return _asserted(check_custom_vjp(f, args, **options))


def _asserted(report: Report) -> Report:
    __tracebackhide__ = True  # pytest shows the line of the test, and the table
    report.raise_if_failed()
    return report


def _check(subject: Subject, given: dict[str, Any]) -> Report:
    options = _options(given)
    strict = options.kinks == "strict"
    try:
        with np.errstate(all="ignore"), jax.transfer_guard("allow"):
            problem = prepare(subject)
            others = [_leaves(problem, subject, point) for point in _points(options)]
            evidence = _judged(problem, options, others)
    except ShapeError as refused:
        found = shapes.explain_shape(subject, refused) if options.diagnose else refused.diagnosis
        return _refusal(subject, found, strict)
    except ContractError as refused:
        return _refusal(subject, refused.diagnosis, strict)
    diagnoses: tuple[Diagnosis, ...] = ()
    if options.diagnose:
        diagnoses = _explained(problem, evidence, options)
    leaves = evidence.leaves
    notes = evidence.notes
    wrong = any(leaf.verdict is Verdict.WRONG for leaf in leaves)
    if options.order == 2 and wrong:
        notes = [*notes, "its derivative (order 2) was not checked, as the gradient itself is wrong"]
    elif options.order == 2:
        second, more = _second_order(subject, problem, options)
        leaves, notes = leaves + second, notes + more
    verdict = Verdict.worst([leaf.verdict for leaf in leaves])
    return Report(subject.name, verdict, tuple(leaves), diagnoses, tuple(dict.fromkeys(notes)), strict)


def _judged(problem: Problem, options: Options, others: list[list[Any]]) -> Evidence:
    """Whatever the functions raise where they were not called before belongs to them."""
    try:
        return judge(problem, options, others)
    except (ContractError, ValueError) as error:
        if isinstance(error, ContractError) or str(error).startswith(("cotangent", "points")):
            raise
        raise breach("the function or its gradient, at another point,", error) from error
    except Exception as error:
        raise breach("the function or its gradient, at another point,", error) from error


def _explained(problem: Problem, evidence: Evidence, options: Options) -> tuple[Diagnosis, ...]:
    """The causes; where looking for them fails, as in programs that cannot be differentiated in reverse, none."""
    try:
        return tuple(diagnosis.explain(problem, evidence, SECONDS[options.budget]))
    except Exception as error:
        wrong = ", ".join(leaf.path for leaf in evidence.leaves if leaf.verdict is Verdict.WRONG)
        text = " ".join(str(error).split())[:120]
        detail = f"the search for the cause ended with {type(error).__name__}: {text}"
        return (Diagnosis(Cause.UNEXPLAINED, wrong, detail, "", False),)


def _refusal(subject: Subject, found: Diagnosis, strict: bool) -> Report:
    leaves = (Leaf(found.leaf, Verdict.CONTRACT, None, None, found.detail),) if found.leaf else ()
    return Report(subject.name, Verdict.CONTRACT, leaves, (found,), (), strict)


def _second_order(subject: Subject, problem: Problem, options: Options) -> tuple[list[Leaf], list[str]]:
    """The same check of the function (x, dy) ↦ dx: the derivative of the gradient given against that of autodiff's."""

    def failed(reason: str) -> tuple[list[Leaf], list[str]]:
        leaves = [Leaf(f"{path} (order 2)", Verdict.INCONCLUSIVE, None, None, reason) for path in problem.paths]
        return leaves, []

    if problem.truth is None or problem.numeric:
        return failed("no autodiff to compare with")
    if any("the gradient cannot be traced" in note for note in problem.notes):
        return failed("the gradient cannot be traced by JAX, so that it cannot be differentiated")
    chosen = tuple(problem.leaves[i] for i in problem.which)
    ones = tuple(np.ones(y.shape, y.dtype) for y in problem.outputs)

    def right(chosen: Any, dy: Any = ones) -> Any:
        y, pullback = jax.vjp(restrict(problem.value_function, problem.leaves, problem.which), *chosen)
        return pullback([jnp.asarray(d, v.dtype) for d, v in zip(dy, y, strict=True)])

    def given(chosen: Any, dy: Any = ones) -> Any:
        gradient = restrict(lambda *leaves: problem.manual_function(leaves, list(dy))[0], problem.leaves, problem.which)
        return tuple(gradient(*chosen))

    def backward(args: tuple[Any, ...], second: Any) -> Any:
        return jax.vjp(given, *args)[1](second)

    args: tuple[Any, ...] = (chosen,) if problem.is_loss else (chosen, tuple(np.asarray(y) for y in ones))
    names = [*problem.paths, *(f"dy{i or ''}" for i in range(len(ones)))]
    try:
        with np.errstate(all="ignore"), jax.enable_x64(True):
            nested = prepare(Subject(subject.name, right, backward, args, tuple(range(len(args)))))
            found = judge(nested, options._replace(cotangent=None, points=2), [])
    except ContractError as refused:
        return failed(refused.diagnosis.detail)
    return [
        leaf._replace(path=f"{name} (order 2)") for leaf, name in zip(found.leaves, names, strict=False)
    ], found.notes


def _options(given: dict[str, Any]) -> Options:
    unknown = sorted(set(given) - set(Options._fields))
    if unknown:
        raise TypeError(f"unknown option {unknown[0]!r}; there are {', '.join(Options._fields)}")
    options = Options(**given)
    for name, allowed in (("kinks", ("classify", "strict")), ("budget", ("fast", "full")), ("order", (1, 2))):
        if getattr(options, name) not in allowed:
            raise ValueError(f"{name} is {getattr(options, name)!r}; expected {' or '.join(map(repr, allowed))}")
    if not isinstance(options.seed, int) or not 0 <= options.seed < 2**32:
        raise ValueError(f"seed is {options.seed!r}; expected an integer from 0 to 2³² − 1")
    if isinstance(options.points, np.integer):
        options = options._replace(points=int(options.points))
    if not isinstance(options.points, int | tuple | list):
        raise ValueError(f"points is {options.points!r}; expected a number, or a list of tuples of arguments")
    if isinstance(options.points, int):
        if options.points < 0:
            raise ValueError(f"points is {options.points}; expected 0 or more")
        if options.budget == "full" and "points" not in given:
            options = options._replace(points=4)
    return options


def _points(options: Options) -> Sequence[tuple[Any, ...]]:
    return () if isinstance(options.points, int) else options.points


def _leaves(problem: Problem, subject: Subject, point: tuple[Any, ...]) -> list[Any]:
    leaves = jax.tree.leaves(_arguments(point))
    if str(jax.tree.structure(tuple(point))) != str(jax.tree.structure(subject.args)) or any(
        np.shape(a) != np.shape(b) for a, b in zip(leaves, problem.leaves, strict=True)
    ):
        raise ValueError("points: one of them has another structure or other shapes than args")
    return [x if is_key(x) else polish(widen(x)) for x in map(jnp.asarray, leaves)]


def _arguments(args: Any) -> tuple[Any, ...]:
    if not isinstance(args, tuple | list):
        raise TypeError(f"args is a {type(args).__name__}; expected a tuple of the arguments: (x,) for one")
    return tuple(args)


def _callable(**functions: Any) -> None:
    for name, function in functions.items():
        if not callable(function):
            raise TypeError(f"{name} is {function!r}; expected a function")


def _pair(found: Any) -> tuple[Any, Any]:
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise ContractError(
            Cause.STRUCTURE,
            f"fwd returned a {type(found).__name__}; expected (y, residuals)",
            "return the result of the function and whatever bwd needs, as a pair",
        )
    return found[0], found[1]


def _name(function: Any) -> str:
    function = getattr(function, "func", function)  # of a functools.partial
    return str(getattr(function, "__name__", type(function).__name__))
