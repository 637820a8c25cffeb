"""The ``nn.Module`` twins of the functions."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from lossgen.runtime.refused import wrong

if TYPE_CHECKING:
    from lossgen.runtime.batch_loss import BatchLoss
    from lossgen.runtime.loss import RowLoss

__all__ = ["LossModule"]

_PER_CALL = {"linear_bias", "row_weight", "normalizer", "by"}
_ANYWHERE = Parameter.POSITIONAL_OR_KEYWORD


class LossModule(nn.Module):
    """A function of a loss with its options: those are attributes, inputs per class buffers, so
    that ``.to`` and ``state_dict`` take them along, and an ``nn.Parameter`` is one of the module's;
    what is left of its arguments, a call takes.

    An option that is called like something a module has (``training``, ``forward``) is an
    attribute with a ``_`` behind its name.
    """

    _buffered: ClassVar[frozenset[str]] = frozenset()  # the options that are buffers
    _common: ClassVar[frozenset[str]] = frozenset()  # those of every loss, said where given
    _placed: ClassVar[int] = 0  # how many of them are given by position: those of the spec
    _places: ClassVar[dict[str, str]] = {}  # option -> attribute

    def __init_subclass__(
        cls,
        loss: RowLoss | BatchLoss | None = None,
        function: Callable[..., Any] | None = None,
        **rest: Any,
    ) -> None:
        """``class GCELoss(LossModule, loss=LOSS, function=gce_loss)``."""
        super().__init_subclass__(**rest)
        if loss is None or function is None:
            return  # a subclass of a user's
        signed = signature(function)
        known = {i.name for i in loss.inputs} | {p.name for p in loss.parameters}
        placed = {i.name for i in loss.inputs if i.kind == "vocab"}
        cls._placed = len(placed)
        cls._common = frozenset({"weight"} & (signed.parameters.keys() - known))
        cls._buffered = frozenset(placed) | cls._common
        rows = {i.name for i in loss.inputs if i.kind == "row"}
        given, options = list[Parameter](), list[Parameter]()
        for entry in signed.parameters.values():
            called = entry.kind is _ANYWHERE or entry.name in rows
            called = called or entry.name in _PER_CALL - known
            (given if called else options).append(entry)
        taken = {*dir(nn.Module()), *dir(LossModule)}
        cls._places = {entry.name: _place(entry.name, taken) for entry in options}
        buffers = [p.replace(kind=_ANYWHERE) for p in options if p.name in placed]
        numbers = [p for p in options if p.name not in placed]
        cls.__init__ = _initialiser(cls, _method([*buffers, *numbers], "None"))  # type: ignore[method-assign]
        cls.forward = _forward(function, _method(given, signed.return_annotation))

    def _options(self) -> dict[str, Any]:
        """What the function is called with, by name."""
        return {name: getattr(self, place) for name, place in self._places.items()}

    def extra_repr(self) -> str:
        options = self._options().items()
        said = [(n, v) for n, v in options if v is not None or n not in self._common]
        return ", ".join(f"{name}={_shown(value)}" for name, value in said)


def _method(parameters: list[Parameter], returned: Any) -> Signature:
    return Signature([Parameter("self", _ANYWHERE), *parameters], return_annotation=returned)


def _initialiser(cls: type[LossModule], signed: Signature) -> Callable[..., None]:
    def __init__(self: LossModule, *args: Any, **options: Any) -> None:
        super(cls, self).__init__()
        try:
            bound = signed.bind(self, *args, **options)
        except TypeError as error:
            unknown = {n: v for n, v in options.items() if n not in signed.parameters}
            more = args[cls._placed :]
            if not more and not unknown:
                raise TypeError(f"{cls.__name__}: {error}") from None
            raise wrong(cls.__name__, signed, more, unknown) from None
        bound.apply_defaults()
        for name, place in cls._places.items():
            value = bound.arguments[name]
            if name in cls._buffered and not isinstance(value, nn.Parameter):
                self.register_buffer(place, value)
            else:
                setattr(self, place, value)

    __init__.__signature__ = signed  # type: ignore[attr-defined]
    return __init__


def _forward(function: Callable[..., Any], signed: Signature) -> Callable[..., Any]:
    def forward(self: LossModule, *args: Any, **given: Any) -> Any:
        if given and (twice := [name for name in given if name in self._places]):
            raise _kept(type(self).__name__, twice[0])
        return function(*args, **given, **self._options())

    forward.__signature__ = signed  # type: ignore[attr-defined]
    forward.__doc__ = f"``{function.__name__}`` with the options of this module."
    return forward


def _kept(module: str, name: str) -> TypeError:
    return TypeError(f"{module}: {name} is an option of the module: {module}({name}=...)")


def _place(name: str, taken: set[str]) -> str:
    """The attribute of an option: behind the last name that is taken and differs by ``_`` alone,
    so that two options never share one."""
    stem = name.rstrip("_")
    ends = [len(t) - len(stem) for t in taken if t.rstrip("_") == stem]
    own = len(name) - len(stem)
    return stem + "_" * (own + 1 + max(ends)) if ends and own >= min(ends) else name


def _shown(value: object) -> str:
    """A number per class by its size: its values would fill the page."""
    if isinstance(value, Tensor):
        return f"tensor[{', '.join(map(str, value.shape))}]"
    return repr(value)
